//! Whose each shared interrupt of the machine is: Merus' own, nobody's, or one VM's, under the number that it has there.
//!
//! As `memory::Space` is for registers, this is the only source of interrupts to link.

use alloc::vec::Vec;
use core::fmt;

use crate::FIRST_SPI;

/// Why an interrupt cannot be a VM's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Merus uses it.
    Own(u32),
    /// Another VM has it.
    Lent(u32),
    /// The interrupt controller has no shared interrupt of that number.
    Absent(u32),
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(pintid) => write!(f, "interrupt {pintid} is Merus' own"),
            Self::Lent(pintid) => write!(f, "interrupt {pintid} is another VM's"),
            Self::Absent(pintid) => write!(f, "interrupt {pintid} is none that the interrupt controller has"),
        }
    }
}

impl core::error::Error for Taken {}

/// An interrupt that a VM has.
#[derive(Debug)]
struct Route<P> {
    pintid: u32,
    intid: u32,
    owner: u32,
    /// The way to the VM's controller; `None` until it is linked.
    port: Option<P>,
}

/// The machine's shared interrupts. `P`: the way to a VM's controller. VMs are told apart by a number of the caller's choice.
#[derive(Debug)]
pub struct Routes<P> {
    /// INTIDs that there are, private ones included.
    intids: u32,
    own: Vec<u32>,
    lent: Vec<Route<P>>,
}

impl<P: Clone> Routes<P> {
    /// Those of a controller with so many INTIDs; `own` are Merus'.
    pub fn new(intids: u32, own: impl IntoIterator<Item = u32>) -> Self {
        Self { intids, own: own.into_iter().collect(), lent: Vec::new() }
    }

    /// Whether a VM can have it.
    pub fn is_free(&self, pintid: u32) -> Result<(), Taken> {
        if self.own.contains(&pintid) {
            return Err(Taken::Own(pintid));
        }
        if !(FIRST_SPI..self.intids).contains(&pintid) {
            return Err(Taken::Absent(pintid));
        }
        if self.lent.iter().any(|route| route.pintid == pintid) {
            return Err(Taken::Lent(pintid));
        }
        Ok(())
    }

    /// Makes one Merus' own; it may be that already.
    pub fn keep(&mut self, pintid: u32) -> Result<(), Taken> {
        match self.is_free(pintid) {
            Ok(()) => self.own.push(pintid),
            Err(Taken::Own(_)) => {}
            Err(taken) => return Err(taken),
        }
        Ok(())
    }

    /// Makes interrupts `owner`'s: (INTID, physical INTID). All of them or, if one cannot be had, none.
    pub fn lend(&mut self, owner: u32, pairs: &[(u32, u32)]) -> Result<(), Taken> {
        let before = self.lent.len();
        for (intid, pintid) in pairs {
            if let Err(taken) = self.is_free(*pintid) {
                self.lent.truncate(before);
                return Err(taken);
            }
            self.lent.push(Route { pintid: *pintid, intid: *intid, owner, port: None });
        }
        Ok(())
    }

    /// From here on those of `owner` are found.
    pub fn link(&mut self, owner: u32, port: &P) {
        for route in self.lent.iter_mut().filter(|route| route.owner == owner) {
            route.port = Some(port.clone());
        }
    }

    /// The VM that has an interrupt and is linked to it: its INTID there, the way to its controller, whose it is.
    pub fn find(&self, pintid: u32) -> Option<(u32, P, u32)> {
        let route = self.lent.iter().find(|route| route.pintid == pintid)?;
        Some((route.intid, route.port.clone()?, route.owner))
    }

    /// Those of `owner` are nobody's.
    pub fn take_back(&mut self, owner: u32) {
        self.lent.retain(|route| route.owner != owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;

    /// A Raspberry Pi 4's: the mini-UART is the console, a PL011, whose interrupt all of that kind share, the control line.
    fn routes() -> Routes<&'static str> {
        Routes::new(256, [125, 153])
    }

    #[test]
    fn what_merus_uses_is_nobody_else_s() {
        let mut routes = routes();
        // Another PL011, another device of the block that the mini-UART is in.
        for (pintid, why) in [(153, "interrupt 153 is Merus' own"), (125, "interrupt 125 is Merus' own")] {
            assert_eq!(routes.is_free(pintid).unwrap_err().to_string(), why);
            assert_eq!(routes.lend(0, &[(40, 96), (41, pintid)]).unwrap_err().to_string(), why);
        }
        assert_eq!(routes.lend(0, &[(40, 96)]), Ok(()), "nothing of what was refused is left");
        for pintid in [0, 27, 31, 256, 1023, u32::MAX] {
            assert_eq!(routes.lend(0, &[(40, pintid)]), Err(Taken::Absent(pintid)));
        }
    }

    #[test]
    fn merus_keeps_what_no_vm_has() {
        let mut routes = routes();
        routes.lend(0, &[(40, 96)]).unwrap();
        assert_eq!((routes.keep(96), routes.keep(256)), (Err(Taken::Lent(96)), Err(Taken::Absent(256))));
        assert_eq!((routes.keep(97), routes.keep(97), routes.keep(153)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(routes.lend(0, &[(41, 97)]), Err(Taken::Own(97)));
        assert_eq!(routes.find(96), None, "it stays what it was");
    }

    #[test]
    fn an_interrupt_is_one_vm_s_and_found_from_its_link_to_its_end() {
        let mut routes = routes();
        routes.lend(0, &[(40, 96), (41, 97)]).unwrap();
        assert_eq!(routes.find(96), None, "not linked yet");
        routes.link(0, &"first");
        assert_eq!(routes.find(97), Some((41, "first", 0)));
        let error = routes.lend(8, &[(50, 98), (51, 97)]).unwrap_err();
        assert_eq!(error.to_string(), "interrupt 97 is another VM's");
        assert_eq!(routes.lend(8, &[(50, 98), (51, 98)]), Err(Taken::Lent(98)), "nor twice one VM's");
        routes.lend(8, &[(50, 98)]).unwrap();
        routes.link(8, &"second");
        routes.take_back(0);
        assert_eq!((routes.find(96), routes.find(97), routes.find(98)), (None, None, Some((50, "second", 8))));
        routes.lend(8, &[(51, 97)]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

        #[test]
        fn no_interrupt_has_two_owners(
            steps in prop::collection::vec((0..5_u32, prop::option::of(prop::collection::vec(28..44_u32, 0..4))), 0..40),
        ) {
            let mut routes = Routes::new(42, [33]);
            // Whose each is, as the steps say.
            let mut model = vec![None; 44];
            for (owner, asked) in steps {
                let Some(asked) = asked else {
                    routes.take_back(owner);
                    model.iter_mut().filter(|who| **who == Some(owner)).for_each(|who| *who = None);
                    continue;
                };
                let pairs: Vec<_> = asked.iter().map(|pintid| (*pintid + 100, *pintid)).collect();
                let fits = |n: usize, at: u32| at != 33 && (32..42).contains(&at) && model[at as usize].is_none() && !asked[..n].contains(&at);
                let all = asked.iter().enumerate().all(|(n, at)| fits(n, *at));
                prop_assert_eq!(routes.lend(owner, &pairs).is_ok(), all);
                if all {
                    asked.iter().for_each(|at| model[*at as usize] = Some(owner));
                }
                routes.link(owner, &owner);
                for (at, who) in model.iter().enumerate() {
                    let found = routes.find(at as u32);
                    prop_assert_eq!(found, who.map(|who| (at as u32 + 100, who, who)));
                }
            }
        }
    }
}
