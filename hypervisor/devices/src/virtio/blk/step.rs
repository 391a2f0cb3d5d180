//! What a step does: pieces that have ended, requests under way, those that were begun before the state was saved, and new ones.

use host::disk::{Disk, DiskError, Progress, Request, Tag};

use super::job::{Guest, Job, Parsed, answer, cost, parse};
use super::spec::*;
use super::{BYTES, Blk, Chain, Ring, Slot, Stop};

/// How a turn on a request ends.
enum Turn {
    /// With this answer.
    Ended(u8),
    /// The disk has this piece.
    Flying(Request),
    /// The step has no bytes left.
    Spent,
    /// The disk cannot go on now.
    Full,
}

impl<D: Disk> Blk<D> {
    fn set(&mut self, number: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(number) {
            *place = slot;
        }
    }

    /// Pieces that have ended. Each frees its tag, whatever becomes of the request.
    fn collect(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        // A disk that names none of ours over and over is not followed for ever.
        for _ in 0..=self.slots.len() {
            let Some(tag) = self.disk.ended() else { break };
            let number = usize::from(tag.0);
            let Some(Slot::Flying(head, mut job, part)) = self.slots.get(number).copied() else {
                let _ = self.disk.finish(tag, None);
                if self.slots.get(number) == Some(&Slot::Orphan) {
                    self.set(number, Slot::Free);
                }
                continue;
            };
            let size = if matches!(part, Request::Read { .. }) { part.range().1 } else { 0 };
            if size > self.budget && self.budget < BYTES {
                return Err(Stop::Later);
            }
            let chain = ring.again(head)?;
            let mut data = Guest::new(ring, &chain, &job);
            let result = self.disk.finish(tag, Some(&mut data));
            let result = data.check(result)?;
            self.budget = self.budget.saturating_sub(size);
            match result {
                Ok(()) => {
                    job.advance(&part, part.range().1);
                    self.set(number, Slot::Ready(head, job));
                }
                Err(error) => self.set(number, Slot::Ended(head, job, answer(error))),
            }
            self.go_on(number, chain, ring)?;
        }
        Ok(())
    }

    /// A turn on a request that has a slot. `false`: the disk cannot go on.
    fn go_on(&mut self, number: usize, chain: Chain, ring: &mut Ring<'_>) -> Result<bool, Stop> {
        let (head, job, status) = match self.slots.get(number).copied() {
            Some(Slot::Ready(head, mut job)) => match self.turn(number, &mut job, &chain, ring)? {
                Turn::Ended(status) => (head, job, status),
                Turn::Flying(part) => {
                    self.set(number, Slot::Flying(head, job, part));
                    return Ok(true);
                }
                other => {
                    self.set(number, Slot::Ready(head, job));
                    return if matches!(other, Turn::Full) { Ok(false) } else { Err(Stop::Later) };
                }
            },
            Some(Slot::Ended(head, job, status)) => (head, job, status),
            _ => return Ok(true),
        };
        // So it is not done twice if the answer cannot be written now.
        self.set(number, Slot::Ended(head, job, status));
        self.complete(chain, Some(&job), status, job.done(), ring)?;
        self.set(number, Slot::Free);
        Ok(true)
    }

    /// Has the disk work on a request until it ends, the disk takes it, or the step's bytes are spent.
    fn turn(&mut self, number: usize, job: &mut Job, chain: &Chain, ring: &Ring<'_>) -> Result<Turn, Stop> {
        let tag = Tag(number as u16);
        loop {
            // What the disk reads later is copied later.
            let later = self.shape.depth != 0 && matches!(job.request, Request::Read { .. });
            let most = if later { BYTES } else { self.budget }.min(self.shape.largest.into());
            let Some(part) = job.next(most, self.shape.block) else { return Ok(Turn::Ended(S_OK)) };
            if self.budget == 0 {
                return Ok(Turn::Spent);
            }
            let mut data = Guest::new(ring, chain, job);
            let answered = self.disk.submit(tag, part, &mut data);
            match data.check(answered)? {
                Ok(Progress::Done(bytes)) => {
                    self.budget = self.budget.saturating_sub(cost(&part));
                    job.advance(&part, bytes);
                }
                Ok(Progress::Started) => {
                    self.budget = self.budget.saturating_sub(if later { 0 } else { cost(&part) });
                    return Ok(Turn::Flying(part));
                }
                Err(DiskError::Later | DiskError::Gone) => return Ok(Turn::Full),
                Err(error) => return Ok(Turn::Ended(answer(error))),
            }
        }
    }

    /// A request that was not begun: as far as it comes. `false`: it is still to be begun, the disk cannot now.
    fn begin(&mut self, number: usize, mut chain: Chain, ring: &mut Ring<'_>) -> Result<bool, Stop> {
        let mut job = Job::NONE;
        match parse(ring, &chain, &self.shape, self.features, &mut job)? {
            Parsed::Job => {}
            Parsed::Refused(status) => return self.complete(chain, None, status, 0, ring).map(|()| true),
            Parsed::Id => {
                let room = usize::try_from(chain.writable().saturating_sub(STATUS_SIZE)).unwrap_or(usize::MAX);
                let id = self.shape.serial.get(..room).unwrap_or(&self.shape.serial);
                ring.write(&chain, 0, id)?;
                return self.complete(chain, None, S_OK, id.len() as u64, ring).map(|()| true);
            }
        }
        // Rather all of it in the next step than pieces in both.
        if self.budget < BYTES && job.next(BYTES, self.shape.block).is_some_and(|part| cost(&part) > self.budget) {
            return Err(Stop::Later);
        }
        let head = chain.head();
        match self.turn(number, &mut job, &chain, ring)? {
            Turn::Ended(status) => {
                self.complete(chain, Some(&job), status, job.done(), ring)?;
                return Ok(true);
            }
            Turn::Full if job.done() == 0 => return Ok(false),
            Turn::Flying(part) => {
                ring.take(&mut chain);
                self.set(number, Slot::Flying(head, job, part));
            }
            turn => {
                // What comes before it cannot be taken back any more.
                ring.publish()?;
                self.told = self.stats;
                ring.take(&mut chain);
                self.set(number, Slot::Ready(head, job));
                return if matches!(turn, Turn::Spent) { Err(Stop::Later) } else { Ok(true) };
            }
        }
        Ok(true)
    }

    /// Answers a request and counts it; `read` bytes from the start of what the device may write are written.
    fn complete(
        &mut self,
        chain: Chain,
        job: Option<&Job>,
        status: u8,
        read: u64,
        ring: &mut Ring<'_>,
    ) -> Result<(), Stop> {
        let at = chain.writable().saturating_sub(STATUS_SIZE);
        let read = if matches!(job, Some(Job { request: Request::Read { .. }, .. }) | None) { read } else { 0 };
        ring.write_end(&chain, status)?;
        let written = if read >= at { chain.writable() } else { read };
        let published = ring.hand_back(chain, u32::try_from(written).unwrap_or(u32::MAX), self.shape.depth != 0)?;
        self.stats.count(job.map(|job| &job.request), status);
        if published {
            self.told = self.stats;
        }
        Ok(())
    }

    /// A step, at whose end the driver has back what is done.
    pub(super) fn serve_step(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        self.told = self.stats;
        let result = self.step(ring);
        match ring.publish() {
            Ok(()) => result,
            // They are done once more, and counted then.
            Err(stop) => {
                self.stats = self.told;
                Err(stop)
            }
        }
    }

    fn step(&mut self, ring: &mut Ring<'_>) -> Result<(), Stop> {
        self.collect(ring)?;
        if self.slots.iter().any(|slot| matches!(slot, Slot::Orphan)) {
            return Ok(());
        }
        for number in 0..self.slots.len() {
            let waiting = self.slots.get(number).filter(|slot| matches!(slot, Slot::Ready(..) | Slot::Ended(..)));
            let Some(head) = waiting.and_then(Slot::head) else { continue };
            let chain = ring.again(head)?;
            if !self.go_on(number, chain, ring)? {
                return Ok(());
            }
        }
        while let Some(number) = self.slots.iter().position(|slot| matches!(slot, Slot::Free)) {
            let old = self.again.first().copied();
            if self.budget == 0 && (old.is_some() || ring.has_more()?) {
                return Err(Stop::Later);
            }
            let chain = match old {
                Some(head) => ring.again(head)?,
                None => match ring.peek()? {
                    Some(chain) => chain,
                    None => break,
                },
            };
            let result = self.begin(number, chain, ring);
            if old.is_some() && (matches!(result, Ok(true)) || self.slots.get(number) != Some(&Slot::Free)) {
                self.again.remove(0);
            }
            if !result? {
                break;
            }
        }
        Ok(())
    }
}
