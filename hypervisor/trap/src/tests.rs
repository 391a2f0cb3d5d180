//! Tests of the room, by subject, and the builders they share.

mod completion;
mod decoding;
mod injection;

use crate::{Il, RawExit, Vector};

/// A syndrome under construction.
#[derive(Clone, Copy)]
struct Syndrome(u64);

impl Syndrome {
    /// Of a class, with a 32-bit instruction.
    fn of(ec: u64) -> Self {
        Self(ec << 26 | 1 << 25)
    }
    /// A data abort from a lower exception level: translation fault, level 3, valid syndrome, a 32-bit load of w0.
    fn load() -> Self {
        Self::of(0x24).bit(24).field(22, 2).field(0, 0b00_0111)
    }
    fn store() -> Self {
        Self::load().bit(6)
    }
    fn bit(self, bit: u32) -> Self {
        Self(self.0 | 1 << bit)
    }
    fn clear(self, bit: u32) -> Self {
        Self(self.0 & !(1 << bit))
    }
    /// Adds a field's value; the field must still be zero.
    fn field(self, low: u32, value: u64) -> Self {
        Self(self.0 | value << low)
    }
    /// `SAS`, as log2 of the bytes, in place of the 32 bits that `load` has.
    fn size(self, sas: u64) -> Self {
        self.clear(22).clear(23).field(22, sas)
    }
    fn status(self, fsc: u64) -> Self {
        Self(self.0 & !0x3f | fsc)
    }
    fn il(self, il: Il) -> Self {
        match il {
            Il::Bytes2 => self.clear(25),
            Il::Bytes4 => self.bit(25),
        }
    }
    /// The exit that this syndrome makes, with a FAR and HPFAR for IPA 0x900_0018.
    fn exit(self) -> RawExit {
        RawExit { vector: Vector::Sync, esr: self.0, far: 0xffff_8000_1234_5018, hpfar: 0x9_0000 }
    }
}
