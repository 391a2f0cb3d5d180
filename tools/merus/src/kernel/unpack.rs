//! Decompression, bounded.

use super::KernelError;
use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use std::io::{self, Read};

/// As much as `decoder` gives, appended to `out`, which may come to `limit` bytes.
fn all(decoder: impl Read, out: &mut Vec<u8>, limit: u64, method: &'static str) -> Result<(), KernelError> {
    let room = limit.saturating_sub(out.len() as u64);
    decoder.take(room.saturating_add(1)).read_to_end(out).map_err(|error| damaged(method, &error))?;
    if out.len() as u64 > limit { Err(KernelError::TooLarge { limit }) } else { Ok(()) }
}

/// What is said of a file that was cut off.
const CUT: &str = "it ends too early";

fn damaged(method: &'static str, error: &io::Error) -> KernelError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => CUT.to_owned(),
        _ => error.to_string(),
    };
    KernelError::Damaged { method, reason }
}

/// What a gzip file holds (RFC 1952): its members one after the other. Zeroes may follow, as tapes and disks leave them.
pub(super) fn gzip(file: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    let (mut rest, mut out) = (file, Vec::new());
    while rest.iter().any(|byte| *byte != 0) || out.is_empty() {
        let before = rest.len();
        let mut decoder = GzDecoder::new(rest);
        all(&mut decoder, &mut out, limit, "gzip")?;
        rest = decoder.into_inner();
        if rest.len() == before || rest.is_empty() {
            break;
        }
    }
    Ok(out)
}

/// What a zstd file holds (RFC 8878): its frames one after the other, their checksums looked at, those passed over that are to be skipped.
pub(super) fn zstd(file: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    let (mut rest, mut out) = (file, Vec::new());
    while !rest.is_empty() {
        let fault = |error: &dyn std::fmt::Display| KernelError::Damaged { method: "zstd", reason: error.to_string() };
        let mut decoder = match StreamingDecoder::new(rest) {
            Ok(decoder) => decoder,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                // Its magic and its length, and so many bytes.
                let behind = (length as usize).checked_add(8).and_then(|frame| rest.get(frame..));
                rest = behind.ok_or_else(|| fault(&CUT))?;
                continue;
            }
            Err(error) => return Err(fault(&error)),
        };
        all(&mut decoder, &mut out, limit, "zstd")?;
        let (left, frame) = decoder.into_parts();
        if frame.get_checksum_from_data().is_some_and(|sum| Some(sum) != frame.get_calculated_checksum()) {
            return Err(fault(&"its checksum is wrong"));
        }
        rest = left;
    }
    Ok(out)
}

/// What an EFI zboot image holds. Linux, drivers/firmware/efi/libstub/zboot-header.S: "MZ", "zimg", offset and size of the payload,
/// 8 bytes of nothing, and how it was compressed, up to a NUL.
pub(super) fn zboot(file: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    let word = |at: usize| file.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes);
    let (offset, size) = (word(8), word(12));
    let end = (offset as usize).checked_add(size as usize);
    let payload = end.and_then(|end| file.get(offset as usize..end));
    let payload = payload.ok_or(KernelError::ZbootPlace { offset, size, have: file.len() })?;
    let method = file.get(24..56).unwrap_or_default();
    let method = method.split(|byte| *byte == 0).next().unwrap_or_default();
    match method {
        b"gzip" => gzip(payload, limit),
        b"zstd" | b"zstd22" => zstd(payload, limit),
        other => Err(KernelError::ZbootMethod { method: String::from_utf8_lossy(other).escape_default().to_string() }),
    }
}
