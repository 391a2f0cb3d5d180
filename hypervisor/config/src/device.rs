//! A VM's devices as a person types them in one word, and how a VM that does not run gets and loses them.
//!
//! | word | device |
//! |---|---|
//! | `rng` | a source of random numbers |
//! | `disk=SOURCE[,readonly][,serial=S]` | a disk; SOURCE is `boot:NAME`, `sha256:HEX` or `host:PARTLABEL=NAME` |
//! | `net=SWITCH[,mac=M][,mtu=N][,isolated]` | a network card |
//!
//! What a VM has keeps its serial and its address when another device goes or comes.

use crate::spec::{DEFAULT_MTU, DiskSpec, Fault, Mac, NetSpec, VirtioDevice, VmSpec, key};
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

/// What a disk looks like.
pub const DISK_FORM: &str = "boot:NAME, sha256:HEX (all 64 digits) or host:PARTLABEL=NAME, and behind it \",readonly\" and \",serial=S\" as \
     needed";
/// What a network card looks like.
pub const NET_FORM: &str =
    "a switch's name, and behind it \",mac=52:54:00:00:00:01\", \",mtu=1500\" and \",isolated\" as needed";
/// What a device looks like.
pub const DEVICE_FORM: &str = "rng, disk=SOURCE or net=SWITCH";

/// Where a disk's sectors are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskWord {
    /// An image in the boot bundle, by its name.
    Boot(String),
    /// An image that was uploaded, by its SHA-256.
    Object([u8; 32]),
    /// The machine's, as [`crate::spec::HOST_FORM`] writes it.
    Host(String),
}

impl DiskWord {
    /// As its `Display` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, which) = text.split_once(':').filter(|(_, which)| !which.is_empty())?;
        match kind {
            "boot" => Some(Self::Boot(which.into())),
            "host" => Some(Self::Host(which.into())),
            "sha256" => hash(which).map(Self::Object),
            _ => None,
        }
    }
}

/// A hash of 64 hexadecimal digits.
fn hash(text: &str) -> Option<[u8; 32]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let mut hash = [0; 32];
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(hash)
}

impl fmt::Display for DiskWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot(name) => write!(f, "boot:{name}"),
            Self::Host(host) => write!(f, "host:{host}"),
            Self::Object(hash) => {
                f.write_str("sha256:")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// A device to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NewDevice {
    /// A source of random numbers.
    Rng,
    /// A disk.
    Disk {
        /// Where its sectors are.
        source: DiskWord,
        /// The guest cannot write to it.
        readonly: bool,
        /// Its serial; `None`: the first of `disk0`, `disk1`... that is free.
        serial: Option<String>,
    },
    /// A network card.
    Net(NetSpec),
}

/// A disk's source, and its options as they were written.
pub fn split_disk(value: &str) -> (&str, &str) {
    let mut source = value;
    // From the end on: a name may have commas.
    while let Some((rest, _)) = source.rsplit_once(',').filter(|(_, option)| is_disk_option(option)) {
        source = rest;
    }
    (source, value.get(source.len()..).unwrap_or_default())
}

fn is_disk_option(option: &str) -> bool {
    option == key::READONLY || option.split_once('=').is_some_and(|(name, _)| name == key::SERIAL)
}

impl NewDevice {
    /// Reads one of the words above.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn parse(word: &str) -> Result<Self, (&'static str, Fault)> {
        let (name, value) = word.split_once('=').unwrap_or((word, "true"));
        Self::of(name, value)
            .unwrap_or_else(|| Err((key::DEVICE, Fault::Form { value: word.into(), form: DEVICE_FORM })))
    }

    /// The same in two halves; `None`: another key.
    pub fn of(name: &str, value: &str) -> Option<Result<Self, (&'static str, Fault)>> {
        let wrong = |form| Fault::Form { value: value.into(), form };
        Some(match name {
            key::RNG if value == "true" => Ok(Self::Rng),
            key::RNG => Err((key::RNG, wrong("true, or leave it out"))),
            key::DISK => disk(value).ok_or((key::DISK, wrong(DISK_FORM))),
            key::NET => net(value).map(Self::Net).ok_or((key::NET, wrong(NET_FORM))),
            _ => return None,
        })
    }
}

fn disk(value: &str) -> Option<NewDevice> {
    let (source, options) = split_disk(value);
    let (mut readonly, mut serial) = (false, None);
    for option in options.split(',').skip(1) {
        match option.split_once('=') {
            None if !readonly => readonly = true,
            Some((_, own)) if serial.is_none() => serial = Some(own.into()),
            _ => return None,
        }
    }
    Some(NewDevice::Disk { source: DiskWord::parse(source)?, readonly, serial })
}

fn net(value: &str) -> Option<NetSpec> {
    let mut parts = value.split(',');
    let switch = parts.next().filter(|switch| !switch.is_empty())?.into();
    let mut net = NetSpec { switch, mac: None, mtu: DEFAULT_MTU, isolated: false };
    for part in parts {
        match part.split_once('=') {
            None if part == key::ISOLATED => net.isolated = true,
            Some((key::MAC, mac)) => net.mac = Some(Mac::parse(mac)?),
            Some((key::MTU, mtu)) => net.mtu = crate::setting::decimal(mtu).and_then(|mtu| u16::try_from(mtu).ok())?,
            _ => return None,
        }
    }
    Some(net)
}

impl VirtioDevice {
    /// What it is called: `rng`, `disk0`, `net1`; the power key has no name.
    pub fn name(self) -> String {
        match self {
            Self::Rng => key::RNG.into(),
            Self::Disk(number) => format!("{}{number}", key::DISK),
            Self::Net(number) => format!("{}{number}", key::NET),
            Self::PowerKey => String::new(),
        }
    }
}

impl VmSpec {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<VirtioDevice> {
        self.virtio_slots().map(|(_, device)| device).find(|device| device.name() == name && !name.is_empty())
    }

    /// Adds a disk as the last one.
    pub fn add_disk(&mut self, mut disk: DiskSpec) -> VirtioDevice {
        let number = self.disks.len();
        if disk.serial.is_none() {
            let taken = |serial: &String| (0..number).any(|other| self.serial(other) == *serial);
            let free = (0..=number).map(|n| format!("{}{n}", key::DISK)).find(|serial| !taken(serial));
            // Where it is the one that it would have anyway, nothing need be kept.
            disk.serial = free.filter(|_| taken(&VirtioDevice::Disk(number).name()));
        }
        self.disks.push(disk);
        VirtioDevice::Disk(number)
    }

    /// Adds a network card as the last one.
    pub fn add_net(&mut self, mut net: NetSpec) -> VirtioDevice {
        let number = self.nets.len();
        if net.mac.is_none() {
            let taken = |mac: &Mac| (0..number).any(|other| self.mac(other) == *mac);
            let free = (0..=number).map(|n| Mac::derived(&self.name, n)).find(|mac| !taken(mac));
            net.mac = free.filter(|_| taken(&Mac::derived(&self.name, number)));
        }
        self.nets.push(net);
        VirtioDevice::Net(number)
    }

    /// Takes a device away. Those of its kind behind it keep serial and address, and their number becomes one less.
    pub fn remove(&mut self, device: VirtioDevice) {
        match device {
            VirtioDevice::Rng => self.rng = false,
            VirtioDevice::Disk(number) if number < self.disks.len() => {
                for other in number..self.disks.len() {
                    let serial = self.serial(other).to_string();
                    if let Some(disk) = self.disks.get_mut(other) {
                        disk.serial = Some(serial);
                    }
                }
                self.disks.remove(number);
            }
            VirtioDevice::Net(number) if number < self.nets.len() => {
                for other in number..self.nets.len() {
                    let mac = self.mac(other);
                    if let Some(net) = self.nets.get_mut(other) {
                        net.mac = Some(mac);
                    }
                }
                self.nets.remove(number);
            }
            VirtioDevice::Disk(_) | VirtioDevice::Net(_) | VirtioDevice::PowerKey => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::{payload, vm};
    use crate::spec::{DiskSource, PayloadKind};
    use alloc::vec::Vec;

    fn disk_of(source: DiskWord, readonly: bool, serial: Option<&str>) -> NewDevice {
        NewDevice::Disk { source, readonly, serial: serial.map(Into::into) }
    }

    #[test]
    fn devices_are_read() {
        let boot = |name: &str| DiskWord::Boot(name.into());
        let net = NetSpec { switch: "lan".into(), mac: None, mtu: 1500, isolated: false };
        let mac = Some(Mac([0x52, 0x54, 0, 0, 0, 1]));
        let object = DiskWord::Object([0xa5; 32]);
        let cases = [
            ("rng", NewDevice::Rng),
            ("rng=true", NewDevice::Rng),
            ("disk=boot:root.img", disk_of(boot("root.img"), false, None)),
            ("disk=boot:a,b,readonly", disk_of(boot("a,b"), true, None)),
            ("disk=boot:readonly", disk_of(boot("readonly"), false, None)),
            ("disk=boot:r,serial=x,readonly", disk_of(boot("r"), true, Some("x"))),
            ("disk=host:PARTLABEL=web,serial=", disk_of(DiskWord::Host("PARTLABEL=web".into()), false, Some(""))),
            (&format!("disk={object}"), disk_of(object.clone(), false, None)),
            (&format!("disk=sha256:{}", "A5".repeat(32)), disk_of(object, false, None)),
            ("net=lan", NewDevice::Net(net.clone())),
            (
                "net=lan,isolated,mtu=9000,mac=52:54:00:00:00:01",
                NewDevice::Net(NetSpec { mac, mtu: 9000, isolated: true, ..net }),
            ),
        ];
        for (word, device) in cases {
            assert_eq!(NewDevice::parse(word), Ok(device), "{word}");
        }
        assert_eq!(split_disk("a,b,readonly,serial=x"), ("a,b", ",readonly,serial=x"));
        assert_eq!(split_disk(",readonly"), ("", ",readonly"));
    }

    #[test]
    fn what_is_no_device_says_what_would_be() {
        let short = format!("disk=sha256:{}", "a".repeat(62));
        let long = format!("disk=sha256:{}", "a".repeat(66));
        let odd = format!("disk=sha256:{}", "+a".repeat(32));
        for (word, key, part) in [
            ("", "device", "write rng, disk=SOURCE or net=SWITCH"),
            ("cpu.weight=1", "device", "\"cpu.weight=1\" is not right"),
            ("rng=false", "rng", "write true"),
            ("disk", "disk", "\"true\" is not right; write boot:NAME"),
            ("disk=root.img", "disk", "boot:NAME"),
            ("disk=boot:", "disk", "boot:NAME"),
            ("disk=boot:,readonly", "disk", "boot:NAME"),
            ("disk=file:x", "disk", "host:PARTLABEL=NAME"),
            ("disk=boot:a,readonly,readonly", "disk", "readonly"),
            ("disk=boot:a,serial=x,serial=y", "disk", "serial=S"),
            (&short, "disk", "all 64 digits"),
            (&long, "disk", "all 64 digits"),
            (&odd, "disk", "all 64 digits"),
            ("disk=sha256:é", "disk", "all 64 digits"),
            ("net=", "net", "a switch's name"),
            ("net=lan,mac=1", "net", "mac=52:54:00:00:00:01"),
            ("net=lan,mtu=70000", "net", "mtu=1500"),
            ("net=lan,mtu=-1", "net", "mtu=1500"),
            ("net=lan,colour=red", "net", "isolated"),
        ] {
            let (at, fault) = NewDevice::parse(word).unwrap_err();
            assert!(at == key && fault.to_string().contains(part), "{word}: {at}: {fault}");
        }
    }

    #[test]
    fn who_stays_keeps_its_name() {
        let mut spec = vm("web");
        let disk = || {
            let source = DiskSource::Image(payload("root.img", PayloadKind::Disk, 512));
            DiskSpec { source, readonly: false, serial: None }
        };
        let net = || NetSpec { switch: "lan".into(), mac: None, mtu: 1500, isolated: false };
        for number in 0..3 {
            assert_eq!(spec.add_disk(disk()), VirtioDevice::Disk(number));
            assert_eq!(spec.add_net(net()), VirtioDevice::Net(number));
        }
        assert!(spec.disks.iter().all(|disk| disk.serial.is_none()) && spec.nets.iter().all(|net| net.mac.is_none()));
        let serials = |spec: &VmSpec| (0..spec.disks.len()).map(|n| spec.serial(n)).collect::<Vec<_>>();
        let macs = |spec: &VmSpec| (0..spec.nets.len()).map(|n| spec.mac(n)).collect::<Vec<_>>();
        let [first, second, third] = [0, 1, 2].map(|n| Mac::derived("web", n));
        spec.remove(VirtioDevice::Disk(1));
        spec.remove(VirtioDevice::Net(0));
        assert_eq!(
            (serials(&spec), macs(&spec)),
            (["disk0", "disk2"].map(String::from).into(), [second, third].into())
        );
        // What comes has what is free, and nothing that is taken.
        spec.add_disk(disk());
        spec.add_net(net());
        assert_eq!(serials(&spec), ["disk0", "disk2", "disk1"]);
        assert_eq!(macs(&spec), [second, third, first]);
        assert!(spec.faults().is_empty());
        spec.add_disk(DiskSpec { serial: Some("own".into()), ..disk() });
        assert_eq!(serials(&spec), ["disk0", "disk2", "disk1", "own"]);
        let names: Vec<String> = spec.virtio_slots().map(|(_, device)| device.name()).collect();
        assert_eq!(names, ["disk0", "disk1", "disk2", "disk3", "net0", "net1", "net2", ""]);
        assert_eq!((spec.device("net2"), spec.device("rng")), (Some(VirtioDevice::Net(2)), None));
        assert_eq!((spec.device("disk4"), spec.device(""), spec.device("disk01")), (None, None, None));
        spec.rng = true;
        spec.remove(VirtioDevice::Rng);
        assert!(!spec.rng);
        spec.remove(VirtioDevice::Disk(9));
        assert_eq!(spec.disks.len(), 4);
    }
}
