//! The rows: what each is, what others need for it, what is to be reached.

/// What a row's figure is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Executed instructions.
    Instructions,
    /// Executed instructions divided by those of the bare machine.
    Ratio,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// A figure as the table shows it.
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::Instructions if figure >= 1e6 => format!("{:.2} M", figure / 1e6),
            Self::Instructions => plain(figure),
            Self::Ratio => format!("{figure:.4}"),
            Self::Bytes => format!("{:.1} KiB", figure / 1024.0),
        }
    }

    /// What one event took, as the table shows it.
    pub fn show_one(self, count: u64) -> String {
        match self {
            // The ratio is that of the mean alone.
            Self::Ratio => Self::Instructions.show(count as f64),
            Self::Instructions | Self::Bytes => self.show(count as f64),
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Ratio => "ratio to bare",
            Self::Bytes => "bytes",
        }
    }
}

/// A number without needless decimals.
pub fn plain(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure}") } else { format!("{figure:.2}") }
}

/// One row of the table.
pub struct Row {
    /// Its name, on the command line and in the baseline.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What its figure is counted in.
    pub unit: Unit,
    /// What the Bao hypervisor needs.
    pub bao: &'static str,
    /// What Xen 4.17 needs.
    pub xen: &'static str,
    /// What KVM (Linux 6.12, VHE) needs.
    pub kvm: &'static str,
    /// What is to be reached.
    pub reach: Option<f64>,
}

macro_rules! rows {
    ($($name:literal: $what:literal, $unit:ident, $bao:literal, $xen:literal, $kvm:literal, $reach:expr;)*) => {
        /// All rows, in the table's order.
        pub const ROWS: &[Row] = &[$(Row {
            name: $name, what: $what, unit: Unit::$unit, bao: $bao, xen: $xen, kvm: $kvm, reach: $reach,
        }),*];
    };
}
rows! {
    "hypercall": "PSCI_VERSION by HVC", Instructions, "203", "471", "1427", Some(150.0);
    "mmio": "a load from GICD_TYPER", Instructions, "225", "599", "2207", Some(220.0);
    "idreg": "a read of ID_AA64PFR0_EL1", Instructions, "untrapped", "432", "1719", Some(140.0);
    "sgi": "an SGI to itself, to the handler's first instruction", Instructions, "791", "1100", "2883", Some(500.0);
    "timer": "the virtual timer's deadline to the handler, spinning", Instructions, "204", "1088", "2741", Some(250.0);
    "wfi": "the same in WFI, alone on the pCPU", Instructions, "192", "1082", "2339", Some(260.0);
    "wfi-blocked": "the same where WFI gives the pCPU away", Instructions, "", "4353", "9391", Some(900.0);
    "wfi-away": "the same where another vCPU has run in between", Instructions, "", "", "", None;
    "switch": "from a VM's vCPU to another VM's", Instructions, "", "~8.8 k", "", None;
    "switch-8": "the same among 8 vCPUs of a pCPU", Instructions, "", "", "", None;
    "switch-64": "the same among 64", Instructions, "", "", "", None;
    "switch-512": "the same among 512", Instructions, "", "", "", None;
    "switch-1024": "the same among 1,024", Instructions, "", "", "", None;
    "wake-8": "wfi-away, among 8 vCPUs of a pCPU that never sleep", Instructions, "", "", "", None;
    "wake-64": "the same among 64", Instructions, "", "", "", None;
    "wake-512": "the same among 512", Instructions, "", "", "", None;
    "wake-1024": "the same among 1,024", Instructions, "", "", "", None;
    "ipi": "an SGI to another pCPU's vCPU in native WFI", Instructions, "841", "7763", "5120", Some(900.0);
    "ipi-blocked": "the same to a vCPU that is blocked", Instructions, "", "7763", "5120", Some(1500.0);
    "hypercall-traced": "hypercall while Merus traces", Instructions, "", "", "", None;
    "mmio-traced": "mmio while Merus traces", Instructions, "", "", "", None;
    "sgi-traced": "sgi while Merus traces", Instructions, "", "", "", None;
    "timer-traced": "timer while Merus traces", Instructions, "", "", "", None;
    "loop": "a loop of 20 million instructions", Ratio, "1.0000", "1.0002", "1.0012", Some(1.0002);
    "uart": "200 lines of 50 characters on the PL011", Instructions, "6.3 M", "21.3 M", "160 M", Some(12e6);
    "start": "power-on to the first instruction of a 128 MiB guest", Instructions, "0.42 M", "35.2 M", "944 M", Some(4e6);
    "start-debian": "the same with Debian's kernel and an initrd", Instructions, "", "", "", Some(16e6);
    "create": "from the request to the first instruction of a 128 MiB guest whose kernel is in memory", Instructions, "", "", "0.92 M", Some(0.3e6);
    "list": "a question for the list of VMs, to the end of the answer", Instructions, "", "", "", None;
    "round": "a VM of 16 MiB made, run to its end, destroyed", Instructions, "", "", "", None;
    "disk-4k": "a random read of 4 KiB from an image in RAM, one at a time", Instructions, "", "", "", None;
    "disk-4k-32": "the same, one of 32 at a time", Instructions, "", "", "", Some(2500.0);
    "disk-mib": "a MiB read in turn, 128 KiB a request, 8 at a time", Instructions, "", "", "", None;
    "host-4k": "a random read of 4 KiB from a virtio disk of the machine's, one at a time", Instructions, "", "", "", None;
    "host-4k-32": "the same, one of 32 at a time", Instructions, "", "", "", None;
    "host-mib": "a MiB in sequence from there, in reads of 128 KiB, 8 at a time", Instructions, "", "", "", None;
    "udp": "64 bytes by UDP to another VM of the same pCPU, and back", Instructions, "", "", "", None;
    "net-mib": "a MiB to another VM of the same pCPU, in frames of 1,510 bytes, 16 at a time", Instructions, "", "", "", None;
    "tcp": "Merus beside two Debian guests of a pCPU while one has a file from the other by TCP", Ratio, "", "", "", Some(0.15);
    "image": "the image file", Bytes, "", "", "", None;
    "resident": "Merus in memory: image, heap, stacks", Bytes, "~0.23 MiB", "15.1 MiB", "110 MiB", Some(2.0 * 1048576.0);
    "vm-64": "the same, one of 64 VMs", Bytes, "", "2.1 MiB", "1.1 MiB", Some(128.0 * 1024.0);
    "vm": "a VM with one vCPU, its RAM not counted", Bytes, "", "2.1 MiB", "1.1 MiB", Some(128.0 * 1024.0);
}

/// The rows whose exit is traced instruction by instruction, as the payload's labels call them.
pub const TRACED: &[&str] = &["hypercall", "mmio", "timer", "idreg", "sgi"];
