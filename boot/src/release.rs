//! The order in which a CPU that waits with its caches off is given what it starts with.
//!
//! Three things in memory: the record (what the CPU loads), the pointer to it (in the image, because a spin table hands over no
//! argument), and the release word (the firmware's; written last). We write the first two through our caches and the CPU reads past
//! its own, so each is cleaned to the point of coherency. The word is written past our caches, as the CPU reads it (one kind of
//! access for all who use it: "Mismatched memory attributes"); a line of it that a cache still holds from the firmware's time could be
//! written over it later, so it is cleaned and dropped before. Maintenance and stores to different places are complete, and ordered,
//! at a DSB alone ("Ordering and completion of data and instruction cache instructions"); so is the word before the event that makes
//! the CPU look ("Wait for Event mechanism and Send event"). All are sections of the Arm ARM (DDI 0487).
//!
//! QEMU has no caches; the tests have some.

/// What is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What the CPU loads.
    Record,
    /// Where that is.
    Pointer,
    /// The word that the CPU looks at.
    Word,
}

/// What it is done with.
pub trait Memory {
    /// Stores the part's value: the record and the pointer through the caches, the word past them.
    fn store(&mut self, part: Part);
    /// Cleans the part's lines of the data caches to the point of coherency.
    fn clean(&mut self, part: Part);
    /// The same, and drops them.
    fn clean_and_drop(&mut self, part: Part);
    /// A DSB of the full system.
    fn complete(&mut self);
    /// SEV.
    fn event(&mut self);
}

/// Writes the record where a CPU reads it that is told where it is: the firmware takes the address along (PSCI's CPU_ON).
pub fn publish(memory: &mut impl Memory) {
    memory.store(Part::Record);
    memory.clean(Part::Record);
    memory.complete();
}

/// Lets a CPU go that waits at the release word.
pub fn release(memory: &mut impl Memory) {
    publish(memory);
    memory.store(Part::Pointer);
    memory.clean(Part::Pointer);
    memory.clean_and_drop(Part::Word);
    memory.complete();
    memory.store(Part::Word);
    memory.complete();
    memory.event();
}

#[cfg(test)]
mod tests;
