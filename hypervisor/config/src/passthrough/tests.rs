use super::*;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

fn pa(start: u64, size: u64) -> Span<Pa> {
    Span::new(Pa::new(start), size).unwrap()
}

fn device(registers: &[(u64, u64)], intids: &[u32]) -> Device {
    Device {
        path: "/device".to_string(),
        name: "device".to_string(),
        registers: registers.iter().map(|(start, size)| pa(*start, *size)).collect(),
        lines: intids.iter().map(|intid| Line { intid: *intid, edge: false }).collect(),
        clocks: vec![],
        properties: vec![],
    }
}

fn ram(size: u64) -> Span<Ipa> {
    Span::new(map::RAM_BASE, size).unwrap()
}

#[test]
fn a_device_stays_where_it_is_if_nothing_is_there() {
    // The second PL011 of `virt`, and a serial port of a Raspberry Pi beside its clock gate.
    let all = vec![device(&[(0x0904_0000, 0x1000)], &[40]), device(&[(0xfe21_5040, 0x40), (0xfe21_5000, 8)], &[125])];
    let given = Passthrough::new(all, ram(1 << 30), 40).unwrap();
    assert_eq!(
        given.pages,
        [(pa(0x0904_0000, 0x1000), Ipa::new(0x0904_0000)), (pa(0xfe21_5000, 0x1000), Ipa::new(0xfe21_5000))]
    );
    assert_eq!(
        given.lines.iter().map(|(line, intid)| (line.intid, *intid)).collect::<Vec<_>>(),
        [(40, 40), (125, 125)]
    );
    assert_eq!(given.registers(pa(0xfe21_5040, 0x40)).unwrap().start(), Ipa::new(0xfe21_5040));
}

#[test]
fn what_is_in_the_way_moves_it_to_the_platform_bus() {
    // The board's clock lies where the guest's is, with the same interrupt; the other one in its RAM, with a number it has not.
    let all = vec![device(&[(0x0901_0000, 0x1000)], &[34]), device(&[(0xfe21_5040, 0x40)], &[400, 34])];
    let given = Passthrough::new(all, ram(4 << 30), 40).unwrap();
    assert_eq!(given.pages.iter().map(|(_, at)| at.as_u64()).collect::<Vec<_>>(), [0x0c00_0000, 0x0c00_1000]);
    assert_eq!(given.registers(pa(0xfe21_5040, 0x40)).unwrap().start(), Ipa::new(0x0c00_1040));
    let intids: Vec<_> = given.lines.iter().map(|(line, intid)| (line.intid, *intid)).collect();
    assert_eq!(intids, [(34, 144), (400, 145)], "one that two devices name is one");
    // Above what the guest's addresses reach.
    let far = Passthrough::new(vec![device(&[(1 << 39, 0x1000)], &[])], ram(1 << 30), 36).unwrap();
    assert_eq!(far.pages[0].1, map::PLATFORM_BUS_BASE);
    let huge = Passthrough::new(vec![device(&[(0x4000_0000, 0x400_0000)], &[])], ram(1 << 30), 36);
    assert!(huge.unwrap_err().to_string().contains("0x40000000"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 300 }))]

    #[test]
    fn places_never_overlap_and_numbers_are_not_used_twice(
        all in prop::collection::vec(
            (prop::collection::vec((0..0x1_2000_0000_u64, 1..0x1_8000_u64), 1..3), prop::collection::vec(32..1000_u32, 0..4)),
            1..8,
        ),
        memory in 8..6000_u64,
    ) {
        let devices: Vec<_> = all.iter().map(|(registers, intids)| device(registers, intids)).collect();
        let ram = ram(memory << 20);
        let given = Passthrough::new(devices.clone(), ram, 40).unwrap();
        let mut spans = map::fixed();
        spans.push(ram);
        for (pages, at) in &given.pages {
            prop_assert!(pages.start().as_u64() % PAGE_SIZE == 0 && pages.size() % PAGE_SIZE == 0);
            prop_assert!(at.as_u64() % PAGE_SIZE == 0);
            let there = Span::new(*at, pages.size()).unwrap();
            prop_assert!(!spans.iter().any(|other| other.overlaps(&there)));
            spans.push(there);
        }
        let mut numbers: Vec<u32> = given.lines.iter().map(|(_, intid)| *intid).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), count);
        prop_assert!(numbers.iter().all(|intid| !map::is_fixed_interrupt(*intid) && *intid < map::SPI_END));
        for device in &devices {
            prop_assert!(device.registers.iter().all(|span| given.registers(*span).is_some()));
            prop_assert!(device.lines.iter().all(|line| given.intid(*line).is_some()));
        }
    }
}
