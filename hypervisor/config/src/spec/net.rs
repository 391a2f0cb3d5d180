//! `[[vm.net]]` and `[[switch]]`: which switches there are, and how VMs are plugged into them.

use super::{DeviceFault, Fault, Owner, Place, SpecError, VmSpec, check_name, key};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// The most switches of one bundle.
pub const MAX_SWITCHES: usize = 16;
/// The most ports of one switch, an uplink among them.
pub const MAX_PORTS: usize = 64;
/// The MTU of a port that names none, in bytes.
pub const DEFAULT_MTU: u16 = 1500;
/// The least and the most MTU in bytes. (Virtual I/O Device 1.2 has 68 for the least; IPv4 says the same of every link. The most is that of
/// common jumbo frames.)
pub const MTUS: core::ops::RangeInclusive<u16> = 68..=9000;
/// What `mac` looks like.
pub const MAC_FORM: &str = "a MAC such as \"52:54:00:00:00:01\"";

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// As `Display` writes it, in letters of either size.
    pub fn parse(text: &str) -> Option<Self> {
        let mut mac = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = part.bytes().all(|c| c.is_ascii_hexdigit()).then(|| u8::from_str_radix(part, 16).ok())??;
        }
        parts.next().is_none().then_some(Self(mac))
    }

    /// The address of port `port` of the VM of this name, the same at each start: a locally administered one, whose other 46 bits are a hash
    /// (FNV-1a, mixed once more) of name and number.
    pub fn derived(vm: &str, port: usize) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let number = (port as u64).to_le_bytes();
        let bytes = vm.bytes().chain([0]).chain(number);
        let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        // Names that differ at their end only must differ in all bytes.
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let [_, _, first, rest @ ..] = hash.to_be_bytes();
        let [b, c, d, e, f] = rest;
        // Bit 0 is for groups, bit 1 for addresses that nobody was allotted (IEEE 802, "Local MAC addresses").
        Self([(first & !3) | 2, b, c, d, e, f])
    }

    fn check(self) -> Result<(), DeviceFault> {
        let Self([first, ..]) = self;
        if self == Self([0; 6]) {
            Err(DeviceFault::MacZero)
        } else if first & 1 != 0 {
            Err(DeviceFault::MacGroup { mac: self })
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What was asked for one port of a switch, and the card at its other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetSpec {
    /// The switch's name.
    pub switch: String,
    /// The card's address; `None`: the [`Mac::derived`] one.
    pub mac: Option<Mac>,
    /// The most bytes of a packet, without the Ethernet header.
    pub mtu: u16,
    /// The port gives frames to the uplink and to ports that are not isolated only, and has them from nobody else.
    pub isolated: bool,
}

/// What was asked for one switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchSpec {
    /// Unique among the switches; of the same characters as a VM's.
    pub name: String,
    /// The machine's own network is plugged into it.
    pub uplink: bool,
}

impl NetSpec {
    /// All that is wrong with it taken by itself, each with its key.
    pub(super) fn check(&self) -> impl Iterator<Item = (&'static str, Fault)> {
        let mac = self.mac.map_or(Ok(()), Mac::check).map_err(|fault| (key::MAC, fault.into()));
        let mtu = if MTUS.contains(&self.mtu) {
            Ok(())
        } else {
            Err((key::MTU, DeviceFault::Mtu { mtu: self.mtu.into() }.into()))
        };
        [mac, mtu].into_iter().filter_map(Result::err)
    }
}

impl SwitchSpec {
    /// An error about one of this switch's settings.
    pub fn error(&self, key: &'static str, fault: impl Into<Fault>) -> SpecError {
        SpecError { owner: Owner::Switch(self.name.to_string()), key, fault: fault.into() }
    }
}

impl VmSpec {
    /// The address of port `port` of the VM.
    pub fn mac(&self, port: usize) -> Mac {
        self.nets.get(port).and_then(|net| net.mac).unwrap_or_else(|| Mac::derived(&self.name, port))
    }
}

/// All that is wrong with the switches.
pub(super) fn switches(switches: &[SwitchSpec], found: &mut Vec<(Place, SpecError)>) {
    if switches.len() > MAX_SWITCHES {
        let fault = DeviceFault::TooManySwitches.into();
        found.push((Place::Whole, SpecError { owner: Owner::All, key: "", fault }));
    }
    for (index, switch) in switches.iter().enumerate() {
        let mut add = |error| found.push((Place::Switch(index), error));
        if let Err(fault) = check_name(&switch.name) {
            add(switch.error(key::NAME, fault));
        }
        if switches.iter().take(index).any(|other| other.name == switch.name) {
            add(switch.error(key::NAME, DeviceFault::SwitchTaken));
        }
    }
}

/// All that is wrong with the ports of all VMs beside each other and the switches.
pub(super) fn ports(vms: &[VmSpec], switches: &[SwitchSpec], found: &mut Vec<(Place, SpecError)>) {
    let mut taken = Taken::new(switches);
    for (vm, owner) in vms.iter().enumerate() {
        taken.add(owner, |net, error| found.push((Place::Net { vm, net }, error)));
    }
}

/// What ports have taken.
pub(super) struct Taken<'a> {
    macs: Vec<(Mac, &'a str)>,
    /// Ports that are left of each switch.
    left: Vec<(&'a str, usize)>,
}

impl<'a> Taken<'a> {
    /// Nothing of `switches` yet.
    pub fn new(switches: &'a [SwitchSpec]) -> Self {
        let left = |switch: &SwitchSpec| MAX_PORTS.saturating_sub(usize::from(switch.uplink));
        Self { macs: Vec::new(), left: switches.iter().map(|switch| (&*switch.name, left(switch))).collect() }
    }

    /// A VM takes what its network cards ask for; what it cannot have is told with the card's number.
    pub fn add(&mut self, owner: &'a VmSpec, mut tell: impl FnMut(usize, SpecError)) {
        for (net, port) in owner.nets.iter().enumerate() {
            let mut add = |key, fault: DeviceFault| tell(net, owner.error_of_net(net, key, fault.into()));
            match self.left.iter_mut().find(|(name, _)| *name == port.switch) {
                None => add(key::SWITCH, DeviceFault::SwitchAbsent { switch: port.switch.to_string() }),
                Some((_, 0)) => add(key::SWITCH, DeviceFault::SwitchFull { switch: port.switch.to_string() }),
                Some((_, left)) => *left = left.saturating_sub(1),
            }
            let mac = owner.mac(net);
            match self.macs.iter().find(|(other, _)| *other == mac) {
                Some((_, vm)) => add(key::MAC, DeviceFault::MacTaken { mac, vm: vm.to_string() }),
                None => self.macs.push((mac, &owner.name)),
            }
        }
    }
}
