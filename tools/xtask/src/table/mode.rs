//! HCR_EL2.E2H = 1: rows that run so always (`vhe = true`), and the whole table run so (`cargo xtask test --vhe`).

use super::{Boot, Firmware};
use anyhow::{Result, ensure};

/// The word of the board's bootargs that asks for it.
const WORD: &str = "merus.vhe=on";
/// What Merus prints where it runs without.
const WITHOUT: &str = "E2H = 0";
/// QEMU's 64-bit CPUs without FEAT_VHE, which are Armv8.0's.
const NO_VHE: [&str; 3] = ["cortex-a53", "cortex-a57", "cortex-a72"];
/// What stands in for them where a row tests nothing of the CPU.
const IN_PLACE: &str = "cortex-a76";

/// Whether QEMU's CPU has FEAT_VHE. (What follows a comma are properties.)
pub fn has_vhe(cpu: &str) -> bool {
    !NO_VHE.contains(&cpu.split(',').next().unwrap_or_default())
}

impl Boot {
    /// Asks for E2H = 1, and forbids that Merus says that it has none. `stand_in`: with another CPU where the row's has no FEAT_VHE
    /// and any would do.
    ///
    /// # Errors
    /// The row's CPU has no FEAT_VHE, or the row boots without bootargs.
    pub fn with_vhe(&mut self, stand_in: bool) -> Result<()> {
        if stand_in && self.any_cpu && self.machine.machine.starts_with("virt") && !has_vhe(&self.machine.cpu) {
            self.machine.cpu = IN_PLACE.to_owned();
        }
        ensure!(has_vhe(&self.machine.cpu), "{} has no FEAT_VHE", self.machine.cpu);
        ensure!(self.machine.load_at.is_none(), "`load_at` boots without bootargs");
        // A boot manager of UEFI passes nothing on to the program that it finds on a disk; with `append` it is the shell that starts it.
        let finds = self.from_disk && matches!(self.firmware, Some(Firmware::Uefi | Firmware::UBootEfi));
        ensure!(!finds || self.machine.append.is_some(), "UEFI's boot manager starts the image without bootargs");
        let append = self.machine.append.get_or_insert_default();
        if !append.split_whitespace().any(|word| word.starts_with("merus.vhe=")) {
            *append = format!("{append} {WORD}").trim().to_owned();
            self.expect.forbidden.push(WITHOUT.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::table::Table;

    fn boots(rows: &str) -> anyhow::Result<Vec<super::Boot>> {
        let defaults = "[defaults]\nmachine = \"virt\"\ncpu = \"cortex-a72\"\nsmp = 1\nboard_memory = \"1G\"\nvcpus = 1\n\
                        memory = \"64M\"\ntimeout = 1\nforbid = [\"no\"]\n";
        Table::parse(&format!("{defaults}{rows}")).map(|table| table.boots)
    }

    #[test]
    fn a_row_asks_for_it_beside_what_it_asks_for_anyway() {
        let boots = boots(
            "[[row]]\nname = \"a\"\nguest = \"linux\"\ncpu = \"max,sme=off\"\nvhe = true\nappend = \"merus.trace=on\"\n\
             [[row]]\nname = \"b\"\nguest = \"linux\"\ncpu = \"neoverse-n1\"\nvhe = true\n\
             [[row]]\nname = \"c\"\nguest = \"linux\"\ncpu = \"max\"\nvhe = true\nappend = \"merus.vhe=off\"\n\
             [[row]]\nname = \"d\"\nguest = \"linux\"\ncpu = \"max\"\n",
        )
        .unwrap();
        let append = |n: usize| boots[n].machine.append.as_deref();
        assert_eq!(append(0), Some("merus.trace=on merus.vhe=on"));
        assert_eq!(append(1), Some("merus.vhe=on"));
        assert_eq!(boots[1].expect.forbidden, ["no", "E2H = 0"]);
        // A row that tests the option itself keeps its own.
        assert_eq!((append(2), boots[2].expect.forbidden.len()), (Some("merus.vhe=off"), 1));
        assert_eq!((append(3), boots[3].expect.forbidden.len()), (None, 1));
    }

    #[test]
    fn where_any_cpu_would_do_another_one_stands_in() {
        let mut boots = boots(
            "[[row]]\nname = \"a\"\nguest = \"linux\"\n\
             [[row]]\nname = \"b\"\nguest = \"linux\"\ncpu = \"cortex-a72\"\n\
             [[row]]\nname = \"c\"\nguest = \"linux\"\nmachine = \"raspi4b\"\n\
             [[product]]\ncpu = [\"cortex-a72\", \"cortex-a53\"]\n[product.row]\nname = \"d-{cpu}\"\nguest = \"linux\"\n\
             [[product]]\ncpu = [\"cortex-a72\", \"max\"]\n[product.row]\nname = \"e-{cpu}\"\nguest = \"linux\"\n",
        )
        .unwrap();
        let cpus: Vec<_> = boots
            .iter_mut()
            .filter_map(|boot| boot.with_vhe(true).ok().map(|()| format!("{} {}", boot.name, boot.machine.cpu)))
            .collect();
        assert_eq!(cpus, ["a cortex-a76", "d-cortex-a72 cortex-a76", "e-max max"]);
    }

    #[test]
    fn a_row_that_cannot_have_it_is_an_error() {
        let error =
            |row: &str| format!("{:#}", boots(&format!("[[row]]\nname = \"a\"\nvhe = true\n{row}")).unwrap_err());
        assert!(error("guest = \"linux\"").contains("row a: cortex-a72 has no FEAT_VHE"));
        let found = error("guest = \"linux\"\ncpu = \"max\"\nfirmware = \"uefi\"\nfrom_disk = true");
        assert!(found.contains("without bootargs"), "{found}");
        assert!(error("no_bundle = true\ncpu = \"max\"\nload_at = \"0x41000000\"").contains("without bootargs"));
    }
}
