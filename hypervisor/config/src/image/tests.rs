use super::*;
use crate::map;
use addr::{Address, BLOCK_SIZE, Ipa, Span};
use proptest::prelude::*;
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

/// A kernel of `size` bytes with this header.
pub(crate) fn kernel(size: usize, text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut file = vec![0; size.max(HEADER_SIZE)];
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file.truncate(size);
    file
}

#[test]
fn the_header_is_read() {
    let header = parse(&kernel(4096, 0x8_0000, 0x20_0000, 0b1010)).unwrap();
    assert_eq!(
        header,
        ImageHeader { text_offset: 0x8_0000, image_size: 0x20_0000, page_size: PageSize::K4, anywhere: true }
    );
    for (flags, page_size) in [(0, PageSize::Unspecified), (4, PageSize::K16), (6, PageSize::K64)] {
        assert_eq!(parse(&kernel(64, 0, 1, flags)).unwrap().page_size, page_size);
    }
}

#[test]
fn what_is_no_kernel_is_called_by_its_name() {
    let zboot = b"MZ\0\0zimg".iter().chain([&0; 64]).copied().collect::<Vec<u8>>();
    let remedy = "give a kernel, or say by `load` where a raw binary goes";
    let unpacks = "give the file itself to `merus pack` or `merus ctl create`, which unpack it";
    for size in [0, 63] {
        let short = format!("is no arm64 Image: the file has {size} bytes and the header alone takes 64; {remedy}");
        assert_eq!(parse(&kernel(size, 0, 1, 0)).unwrap_err().to_string(), short);
    }
    let cases: Vec<(Vec<u8>, String)> = vec![
        (vec![0; 64], format!("is no arm64 Image: the bytes `ARM\\x64` are not at offset 56; {remedy}")),
        (b"\x1f\x8b\x08".to_vec(), format!("is compressed with gzip; {unpacks}")),
        (b"\x28\xb5\x2f\xfd".to_vec(), format!("is compressed with zstd; {unpacks}")),
        (b"\xfd7zXZ\0".to_vec(), "is compressed with xz; unpack it (`unxz`) and give the Image inside".into()),
        (b"\x5d\0\0\x80".to_vec(), "is compressed with lzma; unpack it (`unlzma`) and give the Image inside".into()),
        (b"\x02\x21\x4c\x18".to_vec(), "is compressed with lz4; unpack it (`unlz4`) and give the Image inside".into()),
        (zboot, format!("is an EFI zboot image; {unpacks}")),
        (
            b"\x7fELF".to_vec(),
            "is an ELF file; give the file itself to `merus pack` or `merus ctl create`, which lay it out".into(),
        ),
        (kernel(64, 0, 1, 1), "is a big-endian kernel; give one built for little-endian".into()),
        (
            kernel(64, 0, 0, 0),
            "does not tell its size (image_size is 0, as before Linux 3.17); give a newer kernel".into(),
        ),
        (
            kernel(64, 2, 1, 0),
            "has a header that makes no sense: text_offset 0x2, image_size 0x1; the file is damaged".into(),
        ),
        (
            kernel(64, 0, u64::MAX, 0),
            "has a header that makes no sense: text_offset 0x0, image_size 0xffffffffffffffff; the file is damaged"
                .into(),
        ),
    ];
    for (file, message) in cases {
        assert_eq!(parse(&file).unwrap_err().to_string(), message);
    }
}

fn header(text_offset: u64, image_size: u64) -> ImageHeader {
    ImageHeader { text_offset, image_size, page_size: PageSize::K4, anywhere: true }
}

#[test]
fn a_linux_guest_is_laid_out_as_on_virt() {
    let layout = GuestLayout::new(256 << 20, &header(0, 32 << 20), 30 << 20, Some(5_000_001)).unwrap();
    assert_eq!(layout.ram, Span::new(map::RAM_BASE, 256 << 20).unwrap());
    assert_eq!(layout.kernel, Span::new(Ipa::new(0x4000_0000), 32 << 20).unwrap());
    assert_eq!(layout.entry, Ipa::new(0x4000_0000));
    assert_eq!(layout.initrd, Span::new(Ipa::new(0x4800_0000), 5_000_001));
    assert_eq!(layout.fdt.start(), Ipa::new(0x4860_0000));
}

#[test]
fn the_text_offset_is_kept_and_the_file_may_be_longer_than_its_header_says() {
    let layout = GuestLayout::new(64 << 20, &header(0x8_0000, 0x1000), 0x2000, None).unwrap();
    assert_eq!(layout.kernel, Span::new(Ipa::new(0x4008_0000), 0x2000).unwrap());
    assert_eq!((layout.entry, layout.initrd), (Ipa::new(0x4008_0000), None));
}

#[test]
fn too_little_memory_says_how_much_it_takes() {
    let error = GuestLayout::new(64 << 20, &header(0, 50 << 20), 1, Some(20 << 20)).unwrap_err();
    assert_eq!(error.to_string(), "64 MiB do not hold kernel, initrd and device tree; give at least 72M");
    assert!(GuestLayout::new(72 << 20, &header(0, 50 << 20), 1, Some(20 << 20)).is_ok());
    assert!(GuestLayout::new(70 << 20, &header(0, 50 << 20), 1, Some(20 << 20)).is_err());
    for initrd in [u64::MAX, u64::MAX - 4096] {
        assert!(matches!(
            GuestLayout::new(64 << 20, &header(0, 1), 1, Some(initrd)),
            Err(LayoutError::MemoryTooSmall { .. })
        ));
    }
    let error = GuestLayout::new(256 << 30, &header(0, 1), 1, None).unwrap_err();
    assert_eq!(error.to_string(), "262144 MiB are more than the platform's 261120 MiB; give less");
    let error = GuestLayout::new(100 << 30, &header(0, 1), 1, Some(40 << 30)).unwrap_err();
    assert_eq!(error.to_string(), "kernel and initrd do not fit into one 32 GiB window; give a smaller initrd");
}

/// A raw binary of `size` bytes that goes to `load`.
fn raw(load: u64, size: u64, room: Option<u64>, memory: u64, initrd: Option<u64>) -> Result<GuestLayout, LayoutError> {
    GuestLayout::raw(memory, &Raw { load: Some(load), entry: None, room }, size, initrd)
}

#[test]
fn a_raw_binary_lies_where_it_is_told_and_the_rest_keeps_away() {
    let entry = Some(0x4008_0040);
    let raw_at = Raw { load: Some(0x4008_0000), entry, room: Some(0x20_0000) };
    let layout = GuestLayout::raw(64 << 20, &raw_at, 0x1000, Some(4096)).unwrap();
    assert_eq!(layout.kernel, Span::new(Ipa::new(0x4008_0000), 0x20_0000).unwrap());
    assert_eq!((layout.entry.as_u64(), layout.page_size), (0x4008_0040, PageSize::Unspecified));
    // Behind it there is no room: initrd and tree go before it.
    let layout = raw(0x40a0_0000, 0x1000, Some(0x60_0000), 16 << 20, Some(4096)).unwrap();
    assert_eq!(layout.kernel.end().as_u64(), 0x4100_0000);
    assert_eq!((layout.initrd.unwrap().start().as_u64(), layout.fdt.start().as_u64()), (0x4000_0000, 0x4020_0000));
    // Nor is there before it.
    let error = raw(0x4020_0000, 0x1000, Some(0xe0_0000), 16 << 20, Some(4096)).unwrap_err();
    assert_eq!(error.to_string(), "16 MiB do not hold kernel, initrd and device tree; give at least 20M");
    // What the settings' own check refuses has no layout either.
    for (load, room) in
        [(0x3fff_f000, None), (0, None), (u64::MAX, None), (0x4000_0000, Some(u64::MAX)), (0x4400_0000, None)]
    {
        assert!(raw(load, 4096, room, 64 << 20, None).is_err(), "{load:#x}");
    }
}

#[test]
fn granules_are_known_from_the_register() {
    // As on cortex-a72 (4 and 64 KiB), cortex-a76 (all), and with 4 KiB named absent.
    for (mmfr0, there) in
        [(0x0000_1124, [true, false, true]), (0x0010_1122, [true, true, true]), (0xff10_0000, [false, true, false])]
    {
        assert_eq!([PageSize::K4, PageSize::K16, PageSize::K64].map(|size| size.is_in(mmfr0)), there, "{mmfr0:#x}");
        assert!(PageSize::Unspecified.is_in(mmfr0));
    }
}

proptest! {
    #[test]
    fn a_raw_binary_and_the_rest_lie_in_ram_apart_from_each_other(
        memory in (0u64..=64).prop_map(|n| n * BLOCK_SIZE),
        load in prop_oneof![any::<u64>(), (0x3ff0_0000u64..0x4900_0000)],
        room in prop::option::of(0u64..(64 << 20)),
        file in 1u64..(64 << 20),
        initrd in prop::option::of(0u64..(64 << 20)),
    ) {
        let span = Span::new(Ipa::new(load), room.unwrap_or(0).max(file));
        let ram = Span::new(map::RAM_BASE, memory).unwrap();
        match raw(load, file, room, memory, initrd) {
            Ok(layout) => {
                prop_assert_eq!(Some(layout.kernel), span);
                let parts: Vec<Span<Ipa>> = [Some(layout.kernel), layout.initrd, Some(layout.fdt)].into_iter().flatten().collect();
                for (n, part) in parts.iter().enumerate() {
                    prop_assert!(ram.encloses(part));
                    prop_assert!(parts[..n].iter().all(|other| !other.overlaps(part)));
                }
                prop_assert!(layout.fdt.start().is_aligned(BLOCK_SIZE) && layout.fdt.size() == FDT_MAX);
            }
            Err(LayoutError::MemoryTooSmall { needed, .. }) => {
                // More memory does as the message says, where the binary is in RAM at all.
                if span.is_some_and(|span| ram.encloses(&span)) {
                    prop_assert!(raw(load, file, room, needed << 20, initrd).is_ok());
                }
            }
            Err(other) => prop_assert!(memory == 0, "{other}"),
        }
    }

    #[test]
    fn parts_lie_in_ram_apart_from_each_other(
        memory in (0u64..=1024).prop_map(|n| n * BLOCK_SIZE),
        text_offset in (0u64..0x20_0000).prop_map(|n| n * 4),
        image_size in 1u64..(64 << 20),
        file in 1u64..(64 << 20),
        initrd in prop::option::of(0u64..(256 << 20)),
    ) {
        let header = header(text_offset, image_size);
        let layout = match GuestLayout::new(memory, &header, file, initrd) {
            Ok(layout) => layout,
            Err(LayoutError::MemoryTooSmall { needed, .. }) => {
                prop_assert!(needed << 20 > memory);
                // What the message asks for is enough, and nothing less is.
                prop_assert!(GuestLayout::new((needed << 20) - BLOCK_SIZE, &header, file, initrd).is_err());
                GuestLayout::new(needed << 20, &header, file, initrd).unwrap()
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let parts: Vec<Span<Ipa>> = [Some(layout.kernel), layout.initrd, Some(layout.fdt)].into_iter().flatten().collect();
        for (n, part) in parts.iter().enumerate() {
            prop_assert!(layout.ram.encloses(part));
            prop_assert!(parts[..n].iter().all(|other| !other.overlaps(part)));
        }
        prop_assert!(layout.fdt.start().is_aligned(BLOCK_SIZE) && layout.fdt.size() == FDT_MAX);
        prop_assert!(layout.initrd.is_none_or(|span| span.start().is_aligned(BLOCK_SIZE)));
        prop_assert_eq!(layout.initrd.map(|span| span.size()), initrd);
        prop_assert_eq!(layout.entry.offset_from(map::RAM_BASE), Some(text_offset));
    }

    #[test]
    fn no_bytes_make_the_header_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse(&bytes);
    }
}
