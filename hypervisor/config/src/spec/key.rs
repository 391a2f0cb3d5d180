//! The words for settings: keys of the manifest and properties of the compiled one.

/// Unique name; the console's prefix.
pub const NAME: &str = "name";
/// The kernel: an arm64 Image, or a raw binary if there is a [`LOAD`].
pub const KERNEL: &str = "kernel";
/// Where a raw binary's first byte goes, optional.
pub const LOAD: &str = "load";
/// Where the boot vCPU starts in a raw binary, optional.
pub const ENTRY: &str = "entry";
/// Bytes that belong to a raw binary, what is not in its file included; optional.
pub const ROOM: &str = "room";
/// The initrd, optional.
pub const INITRD: &str = "initrd";
/// The kernel's command line, optional.
pub const CMDLINE: &str = "cmdline";
/// RAM.
pub const MEMORY: &str = "memory";
/// Number of vCPUs.
pub const VCPUS: &str = "vcpus";
/// Share of contended pCPUs, as in cgroup v2.
pub const CPU_WEIGHT: &str = "cpu.weight";
/// Cap on pCPU time, as in cgroup v2.
pub const CPU_MAX: &str = "cpu.max";
/// The pCPUs that it may run on.
pub const CPU_AFFINITY: &str = "cpu.affinity";
/// How its vCPUs are scheduled.
pub const CPU_CLASS: &str = "cpu.class";
/// The group that it shares a weight and limits with.
pub const GROUP: &str = "group";
/// Cap on all memory that is charged to the VM, as in cgroup v2.
pub const MEMORY_MAX: &str = "memory.max";
/// The power keys that it has.
pub const POWER_KEY: &str = "power-key";
/// The interrupt controller that it sees.
pub const GIC: &str = "gic";
/// Devices of the board that it is given.
pub const PASSTHROUGH: &str = "passthrough";
/// Whether those may be among them that reach memory by themselves.
pub const UNSAFE_DMA: &str = "unsafe-dma";
/// Whether it has a source of random numbers.
pub const RNG: &str = "rng";
/// Its disks: tables of their own.
pub const DISK: &str = "disk";
/// A device, as it is typed in one word.
pub const DEVICE: &str = "device";
/// Its network cards: tables of their own.
pub const NET: &str = "net";
/// A disk's file in the bundle.
pub const IMAGE: &str = "image";
/// A disk's place on the machine's disks.
pub const HOST: &str = "host";
/// Whether a disk cannot be written to.
pub const READONLY: &str = "readonly";
/// What a disk says it is called.
pub const SERIAL: &str = "serial";
/// The switch that a network card is plugged into.
pub const SWITCH: &str = "switch";
/// A network card's address.
pub const MAC: &str = "mac";
/// The most bytes of a network card's packets.
pub const MTU: &str = "mtu";
/// Whether a network card's port is kept apart from other such ports.
pub const ISOLATED: &str = "isolated";
/// Whether the machine's own network is plugged into a switch.
pub const UPLINK: &str = "uplink";
/// Those of a group.
pub const OF_GROUP: [&str; 4] = [NAME, CPU_WEIGHT, CPU_MAX, MEMORY_MAX];
/// Those of a disk.
pub const OF_DISK: [&str; 4] = [IMAGE, HOST, READONLY, SERIAL];
/// Those of a network card.
pub const OF_NET: [&str; 4] = [SWITCH, MAC, MTU, ISOLATED];
/// Those of a switch.
pub const OF_SWITCH: [&str; 2] = [NAME, UPLINK];
/// Those of a VM that are tables, of which there may be several.
pub const TABLES: [&str; 2] = [DISK, NET];
/// Those of a VM, without its tables.
pub const ALL: [&str; 20] = [
    NAME,
    KERNEL,
    LOAD,
    ENTRY,
    ROOM,
    INITRD,
    CMDLINE,
    MEMORY,
    VCPUS,
    CPU_WEIGHT,
    CPU_MAX,
    CPU_AFFINITY,
    CPU_CLASS,
    MEMORY_MAX,
    GROUP,
    POWER_KEY,
    GIC,
    PASSTHROUGH,
    UNSAFE_DMA,
    RNG,
];
