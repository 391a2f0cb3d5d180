//! The bytes of an archive, unpacked on the way.

use super::ImageError;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Magics of programs that pack files, and that are not unpacked here.
const OTHERS: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4"), (b"\x5d\0\0", "lzma")];
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// How the archive is packed.
enum Form {
    Plain,
    Gzip,
    /// With the file's bytes: its frames are told apart in them.
    Zstd(Vec<u8>),
}

/// An archive that can be read from its beginning as often as one likes.
pub(super) struct Source {
    path: PathBuf,
    size: u64,
    form: Form,
}

impl Source {
    /// Looks at what there is.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let wrong = |error: &io::Error| ImageError::Read { path: path.to_owned(), reason: error.to_string() };
        let mut file = File::open(path).map_err(|error| wrong(&error))?;
        let data = file.metadata().map_err(|error| wrong(&error))?;
        if !data.is_file() {
            return Err(ImageError::Read {
                path: path.to_owned(),
                reason: "it is no file that can be read twice".into(),
            });
        }
        let mut head = Vec::new();
        file.by_ref().take(6).read_to_end(&mut head).map_err(|error| wrong(&error))?;
        if let Some((_, method)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(ImageError::Packed { path: path.to_owned(), method });
        }
        let form = if head.starts_with(GZIP) {
            Form::Gzip
        } else if head.starts_with(ZSTD) {
            Form::Zstd(std::fs::read(path).map_err(|error| wrong(&error))?)
        } else {
            Form::Plain
        };
        Ok(Self { path: path.to_owned(), size: data.len(), form })
    }

    /// The archive's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The archive's bytes; `count` is told how many of the file's were read.
    pub(super) fn reader(&self, count: Rc<Cell<u64>>) -> Result<Box<dyn Read + '_>, ImageError> {
        if let Form::Zstd(bytes) = &self.form {
            return Ok(Box::new(Zstd::Between { rest: bytes, size: bytes.len() as u64, count }));
        }
        let file = File::open(&self.path).map_err(|error| self.damaged(&error))?;
        let file = BufReader::with_capacity(1 << 16, Counted { file, count });
        Ok(match self.form {
            Form::Gzip => Box::new(MultiGzDecoder::new(file)),
            _ => Box::new(file),
        })
    }

    /// What is said of an archive that ends early, or makes no sense.
    pub(super) fn damaged(&self, error: &io::Error) -> ImageError {
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
            _ => error.to_string(),
        };
        ImageError::Tar { path: self.path.clone(), reason }
    }
}

/// A file, and how far it was read.
struct Counted {
    file: File,
    count: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// What a zstd file holds (RFC 8878): its frames one after the other, those passed over that are to be skipped.
enum Zstd<'a> {
    Between { rest: &'a [u8], size: u64, count: Rc<Cell<u64>> },
    Frame { decoder: Box<StreamingDecoder<&'a [u8], FrameDecoder>>, size: u64, count: Rc<Cell<u64>> },
    End,
}

impl Zstd<'_> {
    fn damaged(error: impl ToString) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {}", error.to_string()))
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::End) {
                Self::End | Self::Between { rest: [], .. } => return Ok(0),
                Self::Between { rest, size, count } => match StreamingDecoder::new(rest) {
                    Ok(decoder) => *self = Self::Frame { decoder: Box::new(decoder), size, count },
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length, ..
                    })) => {
                        // Its magic and its length, and so many bytes.
                        let behind = (length as usize).checked_add(8).and_then(|frame| rest.get(frame..));
                        let rest = behind.ok_or(io::ErrorKind::UnexpectedEof)?;
                        *self = Self::Between { rest, size, count };
                    }
                    Err(error) => return Err(Self::damaged(error)),
                },
                Self::Frame { mut decoder, size, count } => {
                    let read = decoder.read(buffer)?;
                    count.set(size - decoder.get_ref().len() as u64);
                    if read > 0 || buffer.is_empty() {
                        *self = Self::Frame { decoder, size, count };
                        return Ok(read);
                    }
                    let (rest, frame) = decoder.into_parts();
                    if frame.get_checksum_from_data().is_some_and(|sum| Some(sum) != frame.get_calculated_checksum()) {
                        return Err(Self::damaged("its checksum is wrong"));
                    }
                    *self = Self::Between { rest, size, count };
                }
            }
        }
    }
}
