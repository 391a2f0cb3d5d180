//! What can happen, and the fixed form of its record.

use core::fmt;

/// Stands for "no VM" and "no vCPU" in an [`Event`].
pub const NOBODY: u16 = u16::MAX;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$item_doc])* $item = $code,)*
        }

        impl $name {
            /// All of them, by code from 0.
            pub const ALL: &[Self] = &[$(Self::$item),*];

            /// Its name, as people and tools read it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$item => $text,)*
                }
            }

            /// The one with this code.
            pub const fn of(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$item),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Why a guest was left.
    Reason {
        /// The vCPU's own virtual timer.
        Timer = 0, "timer";
        /// Any other physical interrupt.
        Interrupt = 1, "irq";
        /// HVC and SMC.
        Call = 2, "call";
        /// A load or store of a device.
        Mmio = 3, "mmio";
        /// A system register.
        SysReg = 4, "sysreg";
        /// WFI and WFE.
        Wait = 5, "wait";
        /// Any other abort that stage 2 has caused.
        Abort = 6, "abort";
        /// Breakpoints, watchpoints, single steps, BRK.
        Debug = 7, "debug";
        /// A system error.
        SError = 8, "serror";
        /// Anything else.
        Other = 9, "other";
    }
}

codes! {
    /// Why a vCPU has left its pCPU.
    Why {
        /// Another one's turn.
        Preempted = 0, "preempted";
        /// It had nothing useful to do for the moment.
        Yielded = 1, "yielded";
        /// It waits for an interrupt.
        Blocked = 2, "blocked";
        /// It has switched itself off.
        Off = 3, "off";
        /// Its VM ends or is reset.
        Stopped = 4, "stopped";
        /// It has used up what it may have in this period.
        Throttled = 5, "throttled";
        /// Its VM is paused.
        Held = 6, "held";
    }
}

codes! {
    /// What a VM's life has come to.
    Life {
        /// Its first vCPU is made ready.
        Starts = 0, "starts";
        /// It is going to start again.
        Resets = 1, "resets";
        /// It has ended.
        Ends = 2, "ends";
    }
}

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The vCPU has got the pCPU. `argument`: ticks that it was ready before.
    Begin,
    /// It has left it. `argument`: ticks since [`What::Begin`].
    End(Why),
    /// It was left at the event's tick and entered again. `argument`: ticks between the two.
    Exit(Reason),
    /// An interrupt is in a list register, pending for the guest. `argument`: its INTID. After a fold it may be shown again.
    Shown,
    /// A physical interrupt was acknowledged. `argument`: its INTID.
    Taken,
    /// The vCPU was blocked and is ready.
    Wake,
    /// It was blocked, but its pCPU slept in its place. `argument`: ticks.
    Slept,
    /// It has come to this pCPU's queue. `argument`: the number of the pCPU that it has left.
    Moved,
    /// The VM's life has changed.
    Life(Life),
    /// This pCPU has told another to look up. `argument`: that one's number.
    Kick,
}

impl What {
    /// The code and, where there is more than one of the kind, which.
    const fn codes(self) -> (u8, u8) {
        match self {
            Self::Begin => (1, 0),
            Self::End(why) => (2, why as u8),
            Self::Exit(reason) => (3, reason as u8),
            Self::Shown => (4, 0),
            Self::Taken => (5, 0),
            Self::Wake => (6, 0),
            Self::Slept => (7, 0),
            Self::Moved => (8, 0),
            Self::Life(life) => (9, life as u8),
            Self::Kick => (10, 0),
        }
    }

    fn of(code: u8, which: u8) -> Option<Self> {
        Some(match (code, which) {
            (1, 0) => Self::Begin,
            (2, why) => Self::End(Why::of(why)?),
            (3, reason) => Self::Exit(Reason::of(reason)?),
            (4, 0) => Self::Shown,
            (5, 0) => Self::Taken,
            (6, 0) => Self::Wake,
            (7, 0) => Self::Slept,
            (8, 0) => Self::Moved,
            (9, life) => Self::Life(Life::of(life)?),
            (10, 0) => Self::Kick,
            _ => return None,
        })
    }
}

/// One record of a [`crate::Ring`]: 24 bytes, and the sequence number that the ring adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, in ticks of the physical counter.
    pub tick: u64,
    /// What.
    pub what: What,
    /// On which pCPU.
    pub pcpu: u16,
    /// Of which VM; [`NOBODY`] for none.
    pub vm: u16,
    /// Of which of its vCPUs; [`NOBODY`] for none.
    pub vcpu: u16,
    /// What more there is to say: see [`What`].
    pub argument: u64,
}

impl Event {
    /// The record's form:
    ///
    /// | word | bits | what |
    /// |---|---|---|
    /// | 0 | 63:0 | tick |
    /// | 1 | 7:0 | code of [`What`] |
    /// | 1 | 15:8 | code of its [`Why`], [`Reason`] or [`Life`]; else 0 |
    /// | 1 | 31:16, 47:32, 63:48 | pCPU, VM, vCPU |
    /// | 2 | 63:0 | argument |
    pub fn words(&self) -> [u64; 3] {
        let (code, which) = self.what.codes();
        let head = u64::from(code)
            | u64::from(which) << 8
            | u64::from(self.pcpu) << 16
            | u64::from(self.vm) << 32
            | u64::from(self.vcpu) << 48;
        [self.tick, head, self.argument]
    }

    /// The record of these words, if they are one's.
    pub fn from_words([tick, head, argument]: [u64; 3]) -> Option<Self> {
        let what = What::of(head as u8, (head >> 8) as u8)?;
        Some(Self {
            tick,
            what,
            pcpu: (head >> 16) as u16,
            vm: (head >> 32) as u16,
            vcpu: (head >> 48) as u16,
            argument,
        })
    }
}

/// `pcpu 0 vcpu 1: exit mmio, 250 ticks`; neither the tick nor the VM, which whoever prints has said.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pcpu {}", self.pcpu)?;
        if self.vcpu != NOBODY {
            write!(f, " vcpu {}", self.vcpu)?;
        }
        let argument = self.argument;
        match self.what {
            What::Begin => write!(f, ": begins, was ready for {argument} ticks"),
            What::End(why) => write!(f, ": {} after {argument} ticks", why.name()),
            What::Exit(reason) => write!(f, ": exit {}, {argument} ticks", reason.name()),
            What::Shown => write!(f, ": INTID {argument} shown"),
            What::Taken => write!(f, ": INTID {argument} taken"),
            What::Wake => write!(f, ": woken"),
            What::Slept => write!(f, ": slept {argument} ticks"),
            What::Moved => write!(f, ": moved here from pcpu {argument}"),
            What::Life(life) => write!(f, ": the VM {}", life.name()),
            What::Kick => write!(f, ": kicks pcpu {argument}"),
        }
    }
}
