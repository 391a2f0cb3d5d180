//! Device trees, read token by token, and one written anew with what UEFI knows better: RAM, the bundle, the command line.
//!
//! No heap: this runs while the firmware still owns the machine. (Devicetree Specification, "Flattened Devicetree (DTB) Format".)

mod writer;

use super::memory::{MemoryMap, Use};
use addr::{Pa, Span};
use writer::{Cells, Writer};

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
/// What is written, and what every reader of the last ten years can read.
const VERSION: u32 = 17;
const COMPATIBLE: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Why a tree cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// Not a device tree, or not one that holds together.
    Malformed,
    /// Its root counts addresses or sizes in cells of an unknown number.
    Cells,
    /// The new one does not fit into its place.
    NoRoom,
}

impl core::fmt::Display for TreeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is malformed",
            Self::Cells => "its root's #address-cells and #size-cells must each be 1 or 2",
            Self::NoRoom => "it is too large",
        })
    }
}

/// A tree, its header checked.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    reservations: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
    boot_cpu: u32,
}

#[derive(Clone, Copy)]
enum Token<'a> {
    Begin(&'a [u8]),
    End,
    Prop { name: &'a [u8], name_at: u32, value: &'a [u8] },
}

/// The length that the header at the start of `header` gives the tree, if it is one.
pub fn total_size(header: &[u8]) -> Option<usize> {
    (word(header, 0)? == MAGIC).then_some(())?;
    Some(word(header, 4)? as usize).filter(|size| *size >= HEADER)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// The string at the start of `bytes`, without its zero.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..bytes.iter().position(|byte| *byte == 0)?)
}

/// The tokens of a tree's structure block up to the root's end, each with the depth of its node (the root's is 1). What is
/// malformed ends them with an error.
#[derive(Clone)]
struct Tokens<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    at: usize,
    depth: u32,
    over: bool,
}

impl<'a> Tokens<'a> {
    fn read(&mut self) -> Option<(u32, Token<'a>)> {
        loop {
            let kind = word(self.structure, self.at)?;
            self.at += 4;
            let depth = self.depth;
            return match kind {
                NOP => continue,
                BEGIN_NODE => {
                    let name = string(self.structure.get(self.at..)?)?;
                    self.at = (self.at + name.len() + 1).next_multiple_of(4);
                    self.depth = depth.checked_add(1)?;
                    Some((self.depth, Token::Begin(name)))
                }
                END_NODE => {
                    self.depth = depth.checked_sub(1)?;
                    self.over = self.depth == 0;
                    Some((depth, Token::End))
                }
                PROP if depth != 0 => {
                    let (size, name_at) = (word(self.structure, self.at)? as usize, word(self.structure, self.at + 4)?);
                    let value = self.structure.get(self.at + 8..)?.get(..size)?;
                    self.at = (self.at + 8 + size).next_multiple_of(4);
                    let name = string(self.strings.get(name_at as usize..)?)?;
                    Some((depth, Token::Prop { name, name_at, value }))
                }
                _ => None,
            };
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Result<(u32, Token<'a>), TreeError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let token = self.read().ok_or(TreeError::Malformed);
        self.over |= token.is_err();
        Some(token)
    }
}

impl<'a> Tree<'a> {
    /// The tree that starts where `bytes` do.
    ///
    /// # Errors
    /// [`TreeError::Malformed`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, TreeError> {
        Self::open(bytes).ok_or(TreeError::Malformed)
    }

    fn open(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..total_size(bytes)?)?;
        let part = |at: usize, size: usize| {
            let start = word(bytes, at)? as usize;
            bytes.get(start..)?.get(..word(bytes, size)? as usize)
        };
        (word(bytes, 20)? >= VERSION && word(bytes, 24)? <= VERSION).then_some(())?;
        let reservations = bytes.get(word(bytes, 16)? as usize..)?;
        let entries = reservations.chunks_exact(16).position(|entry| entry.iter().all(|byte| *byte == 0))?;
        Some(Self {
            reservations: reservations.get(..entries * 16)?,
            structure: part(8, 36)?,
            strings: part(12, 32)?,
            boot_cpu: word(bytes, 28)?,
        })
    }

    fn tokens(&self) -> Tokens<'a> {
        Tokens { structure: self.structure, strings: self.strings, at: 0, depth: 0, over: false }
    }

    /// Whether the root has a node of this name (its unit address aside).
    pub fn has(&self, name: &[u8]) -> bool {
        let base = |found: &'a [u8]| found.split(|byte| *byte == b'@').next() == Some(name);
        self.tokens().flatten().any(|(depth, token)| depth == 2 && matches!(token, Token::Begin(found) if base(found)))
    }

    /// What `/chosen` says that the initrd is: some loaders put it there.
    pub fn initrd(&self) -> Option<Span<Pa>> {
        let (mut chosen, mut start, mut end) = (false, None, None);
        for (_, token) in self.tokens().flatten().filter(|(depth, _)| *depth == 2) {
            match token {
                Token::Begin(name) => chosen = name == b"chosen",
                Token::Prop { name: b"linux,initrd-start", value, .. } if chosen => start = number(value),
                Token::Prop { name: b"linux,initrd-end", value, .. } if chosen => end = number(value),
                _ => {}
            }
        }
        Span::from_bounds(Pa::new(start?), Pa::new(end?)).filter(|span| !span.is_empty())
    }

    /// Writes this tree into `out` as it is to be for Merus, and returns its length in bytes.
    ///
    /// - RAM is what `map` says, instead of what nodes of type `memory` said; what of it is the firmware's for good is reserved.
    /// - `/chosen` has `bootargs` and the initrd's place as given; what is not given stays as it was.
    ///
    /// # Errors
    /// The tree is malformed, has cells of an unknown size, or does not fit into `out`.
    pub fn rewrite(&self, map: &MemoryMap<'_>, chosen: &Chosen<'_>, out: &mut [u8]) -> Result<usize, TreeError> {
        let mut out = Writer { out, at: HEADER };
        out.bytes(self.reservations)?;
        map.each(Use::Kept, &mut |span| {
            out.number(span.start().as_u64(), 2)?;
            out.number(span.size(), 2)
        })?;
        out.bytes(&[0; 16])?;
        let structure = out.at;
        self.rewrite_nodes(map, chosen, &mut out)?;
        let strings = out.at;
        out.bytes(self.strings)?;
        NAMES.iter().try_for_each(|name| out.bytes(name))?;
        let end = out.at;
        out.align(8)?;
        let total = out.at;
        out.at = 0;
        let reservations = HEADER;
        let sizes = [end - strings, strings - structure];
        let header = [total, structure, strings, reservations].map(|n| n as u32);
        [MAGIC].iter().chain(&header).try_for_each(|n| out.word(*n))?;
        [VERSION, COMPATIBLE, self.boot_cpu, sizes[0] as u32, sizes[1] as u32].iter().try_for_each(|n| out.word(*n))?;
        Ok(total)
    }

    fn rewrite_nodes(&self, map: &MemoryMap<'_>, chosen: &Chosen<'_>, out: &mut Writer<'_>) -> Result<(), TreeError> {
        let added = Added { chosen, names_at: self.strings.len() as u32 };
        let mut cells = Cells { address: 2, size: 1 };
        let (mut in_chosen, mut had_chosen) = (false, false);
        let mut tokens = self.tokens();
        while let Some(token) = tokens.next() {
            let (depth, token) = token?;
            match token {
                Token::Begin(name) if depth == 2 && is_memory(name, tokens.clone()) => skip(&mut tokens)?,
                Token::Begin(name) => {
                    out.begin(name)?;
                    if depth == 2 {
                        in_chosen = name == b"chosen";
                        if in_chosen && !had_chosen {
                            added.properties(out)?;
                        }
                        had_chosen |= in_chosen;
                    }
                }
                Token::Prop { name, .. } if depth == 2 && in_chosen && chosen.replaces(name) => {}
                Token::Prop { name, name_at, value } => {
                    if depth == 1 {
                        cells.learn(name, value)?;
                    }
                    out.property(name_at, value)?;
                }
                Token::End => {
                    if depth == 1 {
                        if !had_chosen {
                            out.begin(b"chosen")?;
                            added.properties(out)?;
                            out.word(END_NODE)?;
                        }
                        added.memory(map, cells, out)?;
                    }
                    out.word(END_NODE)?;
                }
            }
        }
        out.word(END)
    }
}

/// Whether the node of this name, whose inside is next of `tokens`, is RAM.
fn is_memory<'a>(name: &[u8], tokens: Tokens<'a>) -> bool {
    let mut properties = tokens.map_while(|token| match token {
        Ok((_, Token::Prop { name, value, .. })) => Some((name, value)),
        _ => None,
    });
    name == b"memory" || properties.any(|property| property == (b"device_type", b"memory\0"))
}

/// Goes to behind the end of the node that `tokens` is in.
fn skip(tokens: &mut Tokens<'_>) -> Result<(), TreeError> {
    let inside = tokens.depth;
    for token in tokens {
        if let (depth, Token::End) = token?
            && depth == inside
        {
            return Ok(());
        }
    }
    Err(TreeError::Malformed)
}

fn number(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => word(value, 0).map(u64::from),
        8 => value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
        _ => None,
    }
}

/// What the new tree's `/chosen` has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chosen<'a> {
    /// The command line, without a zero.
    pub bootargs: Option<&'a [u8]>,
    /// Where the bundle is.
    pub initrd: Option<Span<Pa>>,
}

impl Chosen<'_> {
    fn replaces(&self, property: &[u8]) -> bool {
        match property {
            b"bootargs" => self.bootargs.is_some(),
            b"linux,initrd-start" | b"linux,initrd-end" => self.initrd.is_some(),
            _ => false,
        }
    }
}

/// Names of properties, as they follow the old tree's.
const NAMES: [&[u8]; 5] = [b"bootargs\0", b"linux,initrd-start\0", b"linux,initrd-end\0", b"device_type\0", b"reg\0"];

/// What is added to the old tree.
struct Added<'a> {
    chosen: &'a Chosen<'a>,
    /// Where [`NAMES`] begin in the strings.
    names_at: u32,
}

impl Added<'_> {
    /// The place of one of [`NAMES`] in the strings.
    fn name(&self, number: usize) -> u32 {
        self.names_at + NAMES.iter().take(number).map(|name| name.len() as u32).sum::<u32>()
    }

    fn properties(&self, out: &mut Writer<'_>) -> Result<(), TreeError> {
        if let Some(line) = self.chosen.bootargs {
            out.property_of(self.name(0), &mut |out| {
                out.bytes(line)?;
                out.bytes(&[0])
            })?;
        }
        if let Some(span) = self.chosen.initrd {
            out.property(self.name(1), &span.start().as_u64().to_be_bytes())?;
            out.property(self.name(2), &span.end().as_u64().to_be_bytes())?;
        }
        Ok(())
    }

    fn memory(&self, map: &MemoryMap<'_>, cells: Cells, out: &mut Writer<'_>) -> Result<(), TreeError> {
        out.begin(b"memory")?;
        out.property(self.name(3), b"memory\0")?;
        out.property_of(self.name(4), &mut |out| {
            for which in [Use::Free, Use::Kept] {
                map.each(which, &mut |span| cells.write(span, out))?;
            }
            Ok(())
        })?;
        out.word(END_NODE)
    }
}
