//! Where a queue keeps its vCPUs: a slot for each, found by its number through a hash table.
//!
//! A vCPU's record is allocated when it is admitted and moves as it is from queue to queue; slots and table come from
//! `with_room`. So nothing but `admit` and `with_room` allocates, and numbers may be as sparse as they like.
use alloc::{boxed::Box, vec::Vec};

use crate::entity::{Entity, EntityId};

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Slab {
    slots: Vec<Option<Box<Entity>>>,
    free: Vec<u32>,
    /// (number, slot); open addressing, at most half full; its length is a power of two or 0.
    table: Vec<(u32, u32)>,
    len: usize,
    /// A vCPU that is here, and its slot: the one that was picked last is asked for most.
    hint: Option<(EntityId, u32)>,
    #[cfg(test)]
    pub visits: core::cell::Cell<u64>,
}

impl Slab {
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many it has room for.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// Room for `total` vCPUs, for [`Self::grow`].
    pub fn with_room(total: usize) -> Self {
        let total = total.min(1 << 20);
        let cells = if total == 0 { 0 } else { total.saturating_mul(2).next_power_of_two() };
        Self {
            slots: (0..total).map(|_| None).collect(),
            free: Vec::with_capacity(total),
            table: alloc::vec![(0, NIL); cells],
            ..Self::default()
        }
    }

    /// Goes over to `room`, if that is more than there is; every vCPU keeps its slot. What is left over holds no vCPU.
    pub fn grow(&mut self, mut room: Self) -> Self {
        if room.slots.len() <= self.slots.len() {
            return room;
        }
        for (to, from) in room.slots.iter_mut().zip(&mut self.slots) {
            *to = from.take();
        }
        core::mem::swap(&mut self.slots, &mut room.slots);
        core::mem::swap(&mut self.free, &mut room.free);
        core::mem::swap(&mut self.table, &mut room.table);
        for slot in (0..self.slots.len() as u32).rev() {
            match self.get(slot).map(|e| e.id) {
                Some(id) => self.note(id.0, slot),
                None => self.free.push(slot),
            }
        }
        room
    }

    /// The slot of a vCPU.
    #[inline]
    pub fn find(&self, id: EntityId) -> Option<u32> {
        match self.hint {
            Some((hint, slot)) if hint == id => Some(slot),
            _ => self.search(id),
        }
    }

    /// `slot` will be looked for.
    #[inline]
    pub fn expect(&mut self, slot: u32) {
        self.hint = self.get(slot).map(|e| (e.id, slot));
    }

    fn search(&self, id: EntityId) -> Option<u32> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = hash(id.0);
        loop {
            // At most half full: there is an empty cell.
            let (number, slot) = *self.table.get(at & mask)?;
            if slot == NIL {
                return None;
            }
            if number == id.0 {
                return Some(slot);
            }
            at = at.wrapping_add(1);
        }
    }

    #[inline]
    pub fn get(&self, slot: u32) -> Option<&Entity> {
        self.slots.get(slot as usize)?.as_deref()
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Entity> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Takes a record in. Without room for it, or where the number is taken, it comes back.
    pub fn insert(&mut self, entity: Box<Entity>) -> Result<u32, Box<Entity>> {
        let id = entity.id;
        if self.find(id).is_some() {
            return Err(entity);
        }
        let Some(slot) = self.free.pop() else { return Err(entity) };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(entity);
        }
        self.note(id.0, slot);
        self.len = self.len.saturating_add(1);
        Ok(slot)
    }

    /// Gives a record up.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Entity>> {
        let entity = self.slots.get_mut(slot as usize)?.take()?;
        self.hint = self.hint.filter(|(_, s)| *s != slot);
        self.free.push(slot);
        self.len = self.len.saturating_sub(1);
        self.unnote(entity.id.0);
        Some(entity)
    }

    /// Every record.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = &Entity> {
        self.slots.iter().flatten().map(|e| &**e)
    }

    fn note(&mut self, id: u32, slot: u32) {
        let Some(mask) = self.table.len().checked_sub(1) else { return };
        let mut at = hash(id);
        while let Some(cell) = self.table.get_mut(at & mask) {
            if cell.1 == NIL {
                *cell = (id, slot);
                return;
            }
            at = at.wrapping_add(1);
        }
    }

    /// Empties the cell of `id` and moves up what would not be found across the gap.
    fn unnote(&mut self, id: u32) {
        let Some(mask) = self.table.len().checked_sub(1) else { return };
        let mut gap = hash(id) & mask;
        while self.table.get(gap).is_some_and(|c| c.1 != NIL && c.0 != id) {
            gap = gap.wrapping_add(1) & mask;
        }
        let mut at = gap;
        loop {
            at = at.wrapping_add(1) & mask;
            let Some(cell) = self.table.get(at).copied().filter(|c| c.1 != NIL && at != gap) else { break };
            // How far `cell` and the gap are from where the search for it begins.
            let begin = hash(cell.0);
            if gap.wrapping_sub(begin) & mask < at.wrapping_sub(begin) & mask {
                if let Some(place) = self.table.get_mut(gap) {
                    *place = cell;
                }
                gap = at;
            }
        }
        if let Some(place) = self.table.get_mut(gap) {
            *place = (0, NIL);
        }
    }
}

/// Multiplicative, so that numbers with a stride of a power of two do not meet; the table is smaller than 2^24 cells.
#[inline]
fn hash(id: u32) -> usize {
    (u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}
