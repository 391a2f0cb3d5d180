use super::*;
use crate::map;
use addr::{Address, BLOCK_SIZE, Ipa, Span};
use proptest::prelude::*;
use std::string::ToString;
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
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "is no arm64 Image: the file has 0 bytes and the header alone takes 64; give the kernel's Image file"),
        (
            kernel(63, 0, 1, 0),
            "is no arm64 Image: the file has 63 bytes and the header alone takes 64; give the kernel's Image file",
        ),
        (vec![0; 64], "is no arm64 Image: the bytes `ARM\\x64` are not at offset 56; give the kernel's Image file"),
        (b"\x1f\x8b\x08".to_vec(), "is compressed with gzip; unpack it (`gunzip`) and give the Image inside"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "is compressed with zstd; unpack it (`unzstd`) and give the Image inside"),
        (
            zboot,
            "is an EFI zboot image, which only EFI firmware can unpack; give the plain Image (`arch/arm64/boot/Image` \
             in the kernel's build tree)",
        ),
        (
            b"\x7fELF".to_vec(),
            "is an ELF file; give the flat arm64 Image (`objcopy -O binary` makes one where its header is linked in)",
        ),
        (kernel(64, 0, 1, 1), "is a big-endian kernel; give one built for little-endian"),
        (kernel(64, 0, 0, 0), "does not tell its size (image_size is 0, as before Linux 3.17); give a newer kernel"),
        (kernel(64, 2, 1, 0), "has a header that makes no sense: text_offset 0x2, image_size 0x1; the file is damaged"),
        (
            kernel(64, 0, u64::MAX, 0),
            "has a header that makes no sense: text_offset 0x0, image_size 0xffffffffffffffff; the file is damaged",
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

proptest! {
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
