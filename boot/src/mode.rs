//! HCR_EL2.E2H: which of its two values Merus runs with, and what of Merus' text depends on it.
//!
//! E2H is 0 where it can be: EL2 then has a translation regime of its own and the names of EL1's registers mean EL1's. Where it
//! cannot (a CPU without FEAT_E2H0), or where the board's bootargs say `merus.vhe=on`, it is 1: EL2 has the regime EL2&0, and at
//! EL2 the names of some EL1 and EL0 registers mean EL2's; the guest's are reached by encodings with op1 = 5, whose names end
//! in `_EL12` and `_EL02` (Arm ARM, "System and Special-purpose register redirection" under "Virtualization Host Extensions").
//!
//! Merus has one text for both. Each access to a register that is redirected is recorded by the macro that emits it
//! (`el2/src/door.rs`), and where E2H is to be 1 the first CPU gives every recorded instruction its other encoding before the
//! MMU is on: [`redirected`] is that step for one instruction. `cargo xtask lint` (`lint-e2h`) holds that none is unrecorded.
//!
//! The choice falls before there is a console. What is wrong with the option is found again, and said, once there is one
//! ([`refusal`]).

use core::fmt;

/// HCR_EL2.E2H.
pub const E2H: u64 = 1 << 34;

/// What a CPU allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// E2H can be 0 (FEAT_E2H0, and so it is on every CPU without FEAT_VHE).
    pub off: bool,
    /// E2H can be 1 (FEAT_VHE).
    pub on: bool,
}

impl Allowed {
    /// By ID_AA64MMFR1_EL1.VH, ID_AA64MMFR4_EL1.E2H0, and HCR_EL2 as it reads after 0 was written to E2H: there are CPUs from before
    /// the ID register's field whose bit stays 1.
    pub const fn new(mmfr1: u64, mmfr4: u64, hcr: u64) -> Self {
        // E2H0 is a signed field: negative means that the feature is not there.
        let fixed = mmfr4 >> 24 & 8 != 0 || hcr & E2H != 0;
        Self { off: !fixed, on: fixed || mmfr1 >> 8 & 0xf != 0 }
    }
    /// E2H for what the bootargs ask: what cannot be had is left for [`refusal`] to say.
    pub const fn choose(self, asked: Asked) -> bool {
        !self.off || (self.on && matches!(asked, Asked::On))
    }
}

/// What the board's bootargs ask for. Of several words the last one counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// `merus.vhe=on`.
    On,
    /// `merus.vhe=off`.
    Off,
    /// `merus.vhe=` and something else.
    Unclear,
}

/// Why the bootargs' wish is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `merus.vhe=on` on a CPU without FEAT_VHE.
    NoVhe,
    /// `merus.vhe=off` on a CPU whose E2H is always 1.
    AlwaysVhe,
    /// Neither `on` nor `off`.
    Unclear,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVhe => {
                "merus.vhe=on: this CPU has no FEAT_VHE, so HCR_EL2.E2H cannot be 1; take the word out of the bootargs"
            }
            Self::AlwaysVhe => {
                "merus.vhe=off: HCR_EL2.E2H is always 1 on this CPU (no FEAT_E2H0); take the word out of the bootargs"
            }
            Self::Unclear => "merus.vhe= can be `on` or `off`; leave it out, and Merus chooses",
        })
    }
}

/// What is wrong with the bootargs' wish on this CPU, if anything is.
pub const fn refusal(asked: Asked, allowed: Allowed) -> Option<Refusal> {
    match asked {
        Asked::Unclear => Some(Refusal::Unclear),
        Asked::On if !allowed.on => Some(Refusal::NoVhe),
        Asked::Off if !allowed.off => Some(Refusal::AlwaysVhe),
        _ => None,
    }
}

/// An instruction's other encoding: `MRS` or `MSR` (register) of a register with op0 = 3 that is named as EL1's (op1 = 0) or EL0's
/// (op1 = 3), with op1 = 5. `None` for everything else (Arm ARM, "MRS", "MSR (register)").
pub const fn redirected(instruction: u32) -> Option<u32> {
    const FIXED: u32 = 0xffd8_0000;
    const REGISTER: u32 = 0xd518_0000;
    const OP1: u32 = 7 << 16;
    match (instruction & FIXED == REGISTER, (instruction & OP1) >> 16) {
        (true, 0 | 3) => Some(instruction & !OP1 | 5 << 16),
        _ => None,
    }
}

/// A flattened device tree that can be read in aligned big-endian words only: with the MMU off memory is Device memory.
pub struct Words<F: Fn(u32) -> u32> {
    size: u32,
    word: F,
}

impl<F: Fn(u32) -> u32> Words<F> {
    /// The tree of `size` bytes whose word at a byte offset (a multiple of 4 below `size`) is what `word` returns. Of the last word
    /// there may be fewer bytes than four.
    pub const fn new(size: u32, word: F) -> Self {
        Self { size, word }
    }
    fn word(&self, at: u32) -> Option<u32> {
        (at.is_multiple_of(4) && at < self.size).then(|| (self.word)(at))
    }
    fn byte(&self, at: u32) -> Option<u8> {
        let word = self.word(at & !3).filter(|_| at < self.size)?;
        Some((word >> (24 - 8 * (at & 3))) as u8)
    }
    /// Whether `text` and a byte `end` stand at `at`.
    fn is(&self, at: u32, text: &[u8], end: &[u8]) -> bool {
        let mut at = at;
        for wanted in text.iter().chain(end) {
            if self.byte(at) != Some(*wanted) {
                return false;
            }
            at = at.wrapping_add(1);
        }
        true
    }
    /// `/chosen/bootargs`: where it begins and ends (Devicetree Specification, "Flattened Devicetree (DTB) Format").
    fn bootargs(&self) -> Option<(u32, u32)> {
        let (begin_node, end_node, prop, nop) = (1, 2, 3, 4);
        let strings = self.word(12)?;
        let mut at = self.word(8)?;
        let mut depth = 0_u32;
        let mut chosen = false;
        // Each turn goes at least a word further.
        loop {
            let token = self.word(at)?;
            at = at.checked_add(4)?;
            if token == begin_node {
                depth = depth.checked_add(1)?;
                chosen = depth == 2 && self.is(at, b"chosen", b"\0");
                while self.byte(at)? != 0 {
                    at = at.checked_add(1)?;
                }
                at = (at & !3).checked_add(4)?;
            } else if token == end_node {
                depth = depth.checked_sub(1)?;
                chosen = false;
            } else if token == prop {
                let (size, name) = (self.word(at)?, self.word(at.checked_add(4)?)?);
                let value = at.checked_add(8)?;
                let end = value.checked_add(size)?;
                if chosen && self.is(strings.checked_add(name)?, b"bootargs", b"\0") {
                    return Some((value, end));
                }
                at = end.checked_add(3)? & !3;
            } else if token != nop {
                return None;
            }
        }
    }
    /// What the tree's bootargs ask for.
    pub fn asked(&self) -> Asked {
        const OPTION: &[u8] = b"merus.vhe=";
        let Some((start, end)) = self.bootargs() else { return Asked::Nothing };
        let parts = |at: u32| at >= end || self.byte(at).is_none_or(|byte| byte <= b' ');
        let mut asked = Asked::Nothing;
        let mut at = start;
        let mut first = true;
        while at < end.min(self.size) {
            if first && !parts(at) && self.is(at, OPTION, b"") {
                let value = at.wrapping_add(OPTION.len() as u32);
                asked = if self.is(value, b"on", b"") && parts(value.wrapping_add(2)) {
                    Asked::On
                } else if self.is(value, b"off", b"") && parts(value.wrapping_add(3)) {
                    Asked::Off
                } else {
                    Asked::Unclear
                };
            }
            first = parts(at);
            at = at.wrapping_add(1);
        }
        asked
    }
}

impl Words<fn(u32) -> u32> {
    /// What the bootargs of a tree in ordinary memory ask for.
    pub fn asked_in(tree: &[u8]) -> Asked {
        let byte = |at: u32| tree.get(at as usize).map_or(0, |byte| u32::from(*byte));
        let word = |at| (0..4).fold(0, |word, n| word << 8 | byte(at + n));
        Words::new(u32::try_from(tree.len()).unwrap_or(u32::MAX), word).asked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    const ANY: Allowed = Allowed { off: true, on: true };
    const ALWAYS: Allowed = Allowed { off: false, on: true };
    const NEVER: Allowed = Allowed { off: true, on: false };

    #[test]
    fn what_a_cpu_allows_is_in_three_registers() {
        assert_eq!(Allowed::new(0, 0, 0), NEVER);
        assert_eq!(Allowed::new(1 << 8, 0, 0), ANY);
        // FEAT_E2H0 is not there, in both ways of saying so.
        assert_eq!(Allowed::new(1 << 8, 0xf << 24, 1 << 34), ALWAYS);
        assert_eq!(Allowed::new(1 << 8, 0xe << 24, 0), ALWAYS);
        // The bit does not clear, whatever the ID register says.
        assert_eq!(Allowed::new(1 << 8, 0, 1 << 34 | 1 << 31), ALWAYS);
        // The neighbours of the fields.
        assert_eq!(Allowed::new(!(0xf << 8), !(0xf << 24), !(1 << 34)), NEVER);
    }

    #[test]
    fn e2h_is_zero_unless_it_is_asked_for_or_cannot_be() {
        for asked in [Asked::Nothing, Asked::On, Asked::Off, Asked::Unclear] {
            assert!(ALWAYS.choose(asked));
            assert!(!NEVER.choose(asked));
            assert_eq!(ANY.choose(asked), asked == Asked::On);
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_words() {
        assert_eq!(refusal(Asked::On, NEVER), Some(Refusal::NoVhe));
        assert_eq!(refusal(Asked::Off, ALWAYS), Some(Refusal::AlwaysVhe));
        for allowed in [ANY, ALWAYS, NEVER] {
            assert_eq!(refusal(Asked::Nothing, allowed), None);
            assert_eq!(refusal(Asked::Unclear, allowed), Some(Refusal::Unclear));
        }
        assert_eq!((refusal(Asked::On, ANY), refusal(Asked::On, ALWAYS)), (None, None));
        assert_eq!((refusal(Asked::Off, ANY), refusal(Asked::Off, NEVER)), (None, None));
        assert!(format!("{}", Refusal::NoVhe).contains("no FEAT_VHE"));
    }

    #[test]
    fn instructions_get_their_other_encoding() {
        for (name, plain, other) in [
            ("mrs x0, SCTLR_EL1", 0xd538_1000, 0xd53d_1000),
            ("msr SCTLR_EL1, x0", 0xd518_1000, 0xd51d_1000),
            ("mrs x30, SPSR_EL1", 0xd538_401e, 0xd53d_401e),
            ("mrs x1, VBAR_EL1", 0xd538_c001, 0xd53d_c001),
            ("msr CNTKCTL_EL1, x9", 0xd518_e109, 0xd51d_e109),
            ("mrs x0, CNTV_CTL_EL0", 0xd53b_e320, 0xd53d_e320),
            ("msr CNTP_CVAL_EL0, xzr", 0xd51b_e25f, 0xd51d_e25f),
        ] {
            assert_eq!(redirected(plain), Some(other), "{name}");
            assert_eq!(redirected(other), None, "{name}: twice");
        }
        for (name, word) in [
            ("mrs x0, HCR_EL2", 0xd53c_1100),
            ("mrs x0, DBGDTR_EL0", 0xd533_0400),
            ("isb", 0xd503_3fdf),
            ("tlbi alle2", 0xd50c_871f),
            ("sys #0, c7, c8, #0, x0", 0xd508_7800),
            ("msr daifset, #15", 0xd503_4fdf),
            ("nop", 0xd503_201f),
            ("udf", 0),
            ("ldr x0, [x0]", 0xf940_0000),
        ] {
            assert_eq!(redirected(word), None, "{name}");
        }
    }

    /// A tree by hand: nodes and properties of the structure block, with names in the strings block.
    #[derive(Default)]
    struct Maker {
        structure: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Maker {
        fn token(&mut self, token: u32) -> &mut Self {
            self.structure.extend(token.to_be_bytes());
            self
        }
        fn padded(&mut self, bytes: &[u8]) -> &mut Self {
            self.structure.extend(bytes);
            while !self.structure.len().is_multiple_of(4) {
                self.structure.push(0);
            }
            self
        }
        fn node(&mut self, name: &str) -> &mut Self {
            self.token(1).padded(format!("{name}\0").as_bytes())
        }
        fn prop(&mut self, name: &str, value: &[u8]) -> &mut Self {
            let at = self.strings.len() as u32;
            self.strings.extend(format!("{name}\0").bytes());
            self.token(3).token(value.len() as u32).token(at).padded(value)
        }
        fn done(&mut self) -> Vec<u8> {
            let (structure, strings) = (self.structure.len() as u32, self.strings.len() as u32);
            let mut tree = Vec::new();
            for word in [0xd00d_feed, 40 + structure + strings, 40, 40 + structure, 40, 17, 16, 0, strings, structure] {
                tree.extend(u32::to_be_bytes(word));
            }
            tree.extend(&self.structure);
            tree.extend(&self.strings);
            tree
        }
    }

    fn tree(bootargs: &str) -> Vec<u8> {
        let mut maker = Maker::default();
        maker.node("").prop("model", b"board\0").node("cpus").node("chosen");
        // A node of that name elsewhere is none of ours, nor is a property of ours in another node.
        maker.prop("bootargs", b"merus.vhe=off\0").token(2).prop("bootargs", b"merus.vhe=off\0").token(2).token(4);
        maker.node("chosen").prop("bootargs2", b"merus.vhe=off\0").prop("x", b"12345");
        maker.prop("bootargs", format!("{bootargs}\0").as_bytes()).token(2).token(2).token(9).done()
    }

    #[test]
    fn the_option_is_found_in_the_tree() {
        for (bootargs, asked) in [
            ("", Asked::Nothing),
            ("merus.vhe=on", Asked::On),
            ("merus.vhe=off", Asked::Off),
            ("merus.trace=on  merus.vhe=on\tmerus.idle=stay", Asked::On),
            ("merus.vhe=off merus.vhe=on", Asked::On),
            ("merus.vhe=on merus.vhe=off", Asked::Off),
            ("merus.vhe=", Asked::Unclear),
            ("merus.vhe=one", Asked::Unclear),
            ("merus.vhe=offf", Asked::Unclear),
            ("merus.vhe=o", Asked::Unclear),
            ("merus.vhe= on", Asked::Unclear),
            ("merus.vhe", Asked::Nothing),
            ("xmerus.vhe=on", Asked::Nothing),
            ("merus.vhe.x=on", Asked::Nothing),
        ] {
            assert_eq!(Words::asked_in(&tree(bootargs)), asked, "{bootargs:?}");
        }
    }

    #[test]
    fn a_tree_that_is_cut_or_damaged_asks_for_nothing_that_it_does_not_say() {
        let whole = tree("merus.vhe=on");
        for size in 0..whole.len() {
            // The strings are behind, so that without their end there are no bootargs.
            assert_eq!(Words::asked_in(&whole[..size]), Asked::Nothing, "{size}");
        }
        // Any byte may be anything: it ends, and without a panic.
        for at in 0..whole.len() {
            for value in [0, 1, 2, 3, 4, 9, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                Words::asked_in(&damaged);
            }
        }
        assert_eq!(Words::asked_in(&[]), Asked::Nothing);
        assert_eq!(Words::asked_in(&[0xff; 64]), Asked::Nothing);
    }

    #[test]
    fn every_message_says_what_to_do() {
        for refusal in [Refusal::NoVhe, Refusal::AlwaysVhe, Refusal::Unclear] {
            let text: String = format!("{refusal}");
            assert!(
                text.starts_with("merus.vhe=") && (text.contains("take the word out") || text.contains("leave it out"))
            );
        }
    }
}
