use super::*;
use std::io::Write;

const RAM: u64 = 64 << 20;
const BASE: u64 = 0x4000_0000;

/// An arm64 `Image` of `size` bytes.
fn image(size: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
    file[8..32].fill(0);
    file[16..24].copy_from_slice(&(2 * size as u64).to_le_bytes());
    file[24] = 2;
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A frame of zstd with four bytes that are nobody's.
const SKIPPED: &[u8] = b"\x5f\x2a\x4d\x18\x04\0\0\0none";

fn zboot(method: &str, payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 512];
    file[..8].copy_from_slice(b"MZ\0\0zimg");
    file[8..12].copy_from_slice(&512u32.to_le_bytes());
    file[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[24..24 + method.len()].copy_from_slice(method.as_bytes());
    file.extend_from_slice(payload);
    // What is not gzip has its length behind it, which is not the payload's.
    file.extend_from_slice(&[0xee; 8]);
    file
}

/// A segment: physical and virtual address, bytes in the file and in memory.
type Part<'a> = (u64, u64, &'a [u8], u64);

fn elf(kind: u16, entry: u64, parts: &[Part<'_>]) -> Vec<u8> {
    let mut file = vec![0; 64 + 56 * parts.len()];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16..18].copy_from_slice(&kind.to_le_bytes());
    file[18..20].copy_from_slice(&183u16.to_le_bytes());
    file[20] = 1;
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32] = 64;
    file[52] = 64;
    file[54] = 56;
    file[56..58].copy_from_slice(&(parts.len() as u16).to_le_bytes());
    for (n, (physical, virt, bytes, size)) in parts.iter().enumerate() {
        let at = 64 + 56 * n;
        let words = [file.len() as u64, *virt, *physical, bytes.len() as u64, *size, 4096];
        file[at] = 1;
        file[at + 4] = 7;
        for (m, word) in words.iter().enumerate() {
            file[at + 8 + 8 * m..at + 16 + 8 * m].copy_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(bytes);
    }
    file
}

fn made(file: Vec<u8>) -> Kernel {
    prepare(file, Raw::default(), RAM).unwrap()
}

fn refused(file: Vec<u8>) -> String {
    prepare(file, Raw::default(), RAM).unwrap_err().to_string()
}

#[test]
fn every_form_becomes_the_image_in_it() {
    let image = image(300_000);
    let vmlinux = 0xffff_8000_0800_0000;
    let forms = [
        image.clone(),
        gzip(&image),
        zstd(&image),
        [gzip(&image[..1000]), gzip(&image[1000..]), vec![0; 700]].concat(),
        [zstd(&image[..1000]), zstd(&image[1000..])].concat(),
        // What some packers put between and behind: a frame that is to be skipped (RFC 8878, "Skippable Frames").
        [zstd(&image[..1000]), SKIPPED.to_vec(), zstd(&image[1000..]), SKIPPED.to_vec()].concat(),
        zboot("gzip", &gzip(&image)),
        zboot("zstd", &zstd(&image)),
        gzip(&zboot("gzip", &gzip(&image))),
        gzip(&gzip(&gzip(&image))),
        // A vmlinux: linked for the upper half, in several segments with holes between them.
        elf(3, vmlinux, &[(vmlinux, vmlinux, &image, 400_000)]),
        elf(2, 0, &[(4096, 4096, &image[4096..], 400_000), (0, 0, &image[..4096], 4096)]),
    ];
    for (n, form) in forms.into_iter().enumerate() {
        assert!(made(form) == Kernel { bytes: image.clone(), raw: Raw::default() }, "form {n}");
    }
}

#[test]
fn an_elf_file_is_laid_out_as_in_memory() {
    let parts: &[Part<'_>] = &[(BASE + 0x3000, 0x1000, b"data", 0x100), (BASE + 0x1000, 0x8000, b"code", 0x10)];
    let kernel = made(elf(2, 0x8004, parts));
    assert_eq!(kernel.raw, Raw { load: Some(BASE + 0x1000), entry: Some(BASE + 0x1004), room: Some(0x2100) });
    assert_eq!((&kernel.bytes[..4], &kernel.bytes[0x2000..]), (&b"code"[..], &b"data"[..]));
    assert!(kernel.bytes[4..0x2000].iter().all(|byte| *byte == 0));
    // A position-independent one goes where it is told; an entry that is given counts, and so does more room.
    let at = Raw { load: Some(BASE + 0x10_0000), entry: Some(BASE + 0x10_0000), room: Some(0x8000) };
    let there = prepare(elf(3, 0x8004, parts), at, RAM).unwrap();
    assert_eq!((there.raw, there.bytes), (at, kernel.bytes));
    let there = prepare(elf(3, 0x8004, parts), Raw { load: at.load, ..Raw::default() }, RAM).unwrap();
    assert_eq!(there.raw, Raw { load: at.load, entry: Some(BASE + 0x10_0004), room: Some(0x2100) });
    // One that begins with an Image's header and is linked for this RAM stays where it is linked for.
    let image = image(5000);
    let kernel = made(elf(2, BASE + 0x8_0000, &[(BASE + 0x8_0000, BASE + 0x8_0000, &image, 9000)]));
    assert_eq!((kernel.raw.load, kernel.bytes), (Some(BASE + 0x8_0000), image));
}

#[test]
fn what_is_damaged_or_not_for_this_machine_says_so() {
    let image = image(300_000);
    let cut = |mut file: Vec<u8>, keep: usize| {
        file.truncate(keep);
        file
    };
    let with = |mut file: Vec<u8>, at: usize, byte: u8| {
        file[at] = byte;
        file
    };
    let packed = gzip(&image);
    let half = packed.len() / 2;
    let last = packed.len() - 5;
    let sum = zstd(&image).len() - 1;
    let part: Part<'_> = (BASE, BASE, b"code", 4);
    let good = elf(2, BASE, &[part]);
    let zeroes = vec![0; RAM as usize + 1];
    let cases = [
        (cut(packed.clone(), half), "is a damaged gzip file (it ends too early); copy or make it again"),
        (with(packed.clone(), last, !packed[last]), "is a damaged gzip file ("),
        ([packed, b"rest".to_vec()].concat(), "is a damaged gzip file ("),
        (cut(zstd(&image), 500), "is a damaged zstd file ("),
        (with(zstd(&image), 500, !zstd(&image)[500]), "is a damaged zstd file ("),
        (with(zstd(&image), sum, !zstd(&image)[sum]), "is a damaged zstd file (its checksum is wrong)"),
        ([zstd(&image), cut(SKIPPED.to_vec(), 11)].concat(), "is a damaged zstd file (it ends too early)"),
        (gzip(&zeroes), "unpacks to more than 64M (the VM's memory, and 1G at most)"),
        (zstd(&zeroes), "unpacks to more than 64M"),
        (zboot("gzip", &gzip(&zeroes)), "unpacks to more than 64M"),
        (gzip(&gzip(&gzip(&gzip(&image)))), "is packed more than 3 times over"),
        (b"\xfd7zXZ\0....".to_vec(), "is compressed with xz; unpack it (`unxz`) and give the Image inside"),
        (b"\x02\x21\x4c\x18....".to_vec(), "is compressed with lz4; unpack it (`unlz4`)"),
        (zboot("xzkern", b"?"), "is an EFI zboot image packed with \"xzkern\", and only gzip and zstd are unpacked"),
        (zboot("\n\u{1b}[", b"?"), "packed with \"\\n\\u{1b}[\""),
        (cut(zboot("gzip", &gzip(&image)), 600), "payload ("),
        (cut(zboot("gzip", b""), 8), "packed with \"\""),
        (with(zboot("gzip", b"x"), 11, 0xff), "is not in the file"),
        (cut(good.clone(), 5), "is an ELF file that ends within its header"),
        (cut(good.clone(), 63), "is an ELF file that ends within its header"),
        (cut(good.clone(), 100), "is an ELF file whose program headers are not in the file"),
        (cut(good.clone(), 122), "is an ELF file whose segment 0 is not all in the file"),
        (with(good.clone(), 4, 1), "is an ELF file for a 32-bit CPU"),
        (with(good.clone(), 5, 2), "is an ELF file for a big-endian CPU; give one built for little-endian"),
        (with(good.clone(), 18, 62), "is an ELF file for another machine (number 62); give one for AArch64"),
        (with(good.clone(), 16, 1), "is an ELF file of type 1, which is no program"),
        (with(good.clone(), 64, 2), "is an ELF file with nothing to load"),
        (elf(2, BASE + 4, &[part]), "is an ELF file whose entry, 0x40000004, is in none of its segments"),
        (elf(2, BASE, &[part, (BASE + 3, BASE + 3, b"x", 1)]), "is an ELF file with two segments at 0x40000003"),
        (elf(2, BASE, &[(BASE, BASE, b"code", 3)]), "is an ELF file whose segment 0 makes no sense"),
        (elf(2, BASE, &[(u64::MAX, BASE, b"code", 4)]), "is an ELF file whose segment 0 makes no sense"),
        (elf(2, BASE, &[(BASE, BASE, b"", 4)]), "is an ELF file with nothing but zeroes"),
        (
            elf(2, 0x8000, &[(0x8000, 0x8000, b"code", 0x1000)]),
            "is an ELF file for 0x8000 to 0x9000, and the VM's RAM is 0x40000000 to 0x44000000; link it for that",
        ),
        (elf(3, 0, &[(0, 0, b"code", 0x1000)]), "; link it for that, or say by `load` where it goes"),
        (elf(2, BASE, &[part, (BASE + RAM, 0, b"x", 1)]), "unpacks to more than 64M"),
    ];
    for (n, (file, message)) in cases.into_iter().enumerate() {
        let error = refused(file);
        assert!(error.contains(message), "case {n}: {error}");
    }
    let at = Raw { load: Some(BASE), ..Raw::default() };
    let error = prepare(good, at, RAM).unwrap_err().to_string();
    assert!(error.contains("of type EXEC, which has addresses of its own; leave `load` out"), "{error}");
}

#[test]
fn no_file_makes_it_panic() {
    let image = image(3000);
    let seeds = [
        gzip(&image),
        zstd(&image),
        zboot("gzip", &gzip(&image)),
        elf(3, 0, &[(0, 0, &image, 4000), (8192, 8192, b"data", 100)]),
    ];
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..20_000 {
        let mut file = seeds[round % seeds.len()].clone();
        for _ in 0..1 + random(4) {
            // Most of them in the headers.
            let reach = if random(2) == 0 { file.len() } else { file.len().min(180) };
            let at = random(reach);
            file[at] = [0, 0xff, 0x80, random(256) as u8][random(4)];
        }
        file.truncate(file.len() - if random(4) == 0 { random(100) } else { 0 });
        let _ = prepare(file, Raw::default(), 8 << 20);
    }
}
