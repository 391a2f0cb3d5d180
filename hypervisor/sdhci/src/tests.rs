//! The driver against a controller and a card that do what the specifications say, or fail as told.

extern crate std;

use crate::spec::*;
use crate::{AT_ONCE, Card, DEPTH, LARGEST, Registers, SdDrive, SdError};
use host::disk::{Data, DiskError, Drive, Gone, NoData, Progress, Request, Tag};
use std::boxed::Box;
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Faults {
    no_card: bool,
    no_controller: bool,
    never_powers_up: bool,
    /// Data commands that end in this status, and how many of them do.
    data: Option<(u32, usize)>,
    /// What the card says of a transfer.
    status: u32,
    /// Data commands that nothing follows.
    silent: bool,
    /// The circuits cannot be reset.
    stuck: bool,
}

/// A transfer under way.
struct Transfer {
    at: usize,
    left: u32,
    write: bool,
    buffer: Vec<u8>,
}

struct Model {
    faults: Faults,
    old: bool,
    small: bool,
    protected: bool,
    media: Vec<u8>,
    words: [u32; 64],
    transfer: Option<Transfer>,
    app: bool,
    commands: Vec<u32>,
    power_ups: u32,
}

impl Model {
    fn set(&mut self, bits: u32) {
        self.words[STATUS as usize / 4] |= bits & self.words[STATUS_ENABLE as usize / 4];
    }

    fn respond(&mut self, words: [u32; 4]) {
        self.words[4..8].copy_from_slice(&words);
    }

    fn csd(&self) -> [u32; 4] {
        let blocks = (self.media.len() / 512) as u128;
        let protect = u128::from(self.protected) << 12;
        let csd = if self.small {
            // Blocks of 1 KiB, 2^9 times as many as it says and one more.
            10u128 << 80 | (blocks / 2 / 512 - 1) << 62 | 7 << 47 | protect
        } else {
            1 << 126 | (blocks / 1024 - 1) << 48 | protect
        };
        let bits = csd >> 8;
        [0, 32, 64, 96].map(|shift| (bits >> shift) as u32)
    }

    fn command(&mut self, value: u32) {
        let index = value >> INDEX_SHIFT & 0x3f;
        let (app, argument) = (core::mem::take(&mut self.app), self.words[ARGUMENT as usize / 4]);
        self.commands.push(index + if app { 100 } else { 0 });
        if self.faults.no_card && index != GO_IDLE {
            return self.set(COMMAND_TIMEOUT | 1 << 15);
        }
        match (app, index) {
            (false, SEND_IF_COND) if self.old => return self.set(COMMAND_TIMEOUT | 1 << 15),
            (false, SEND_IF_COND) => self.respond([argument, 0, 0, 0]),
            (false, APP) => self.app = true,
            (true, SEND_OP_COND) => {
                self.power_ups += 1;
                let up = self.power_ups > 2 && !self.faults.never_powers_up;
                let high = if self.small { 0 } else { argument & HIGH_CAPACITY };
                self.respond([VOLTAGES | high | if up { POWERED_UP } else { 0 }, 0, 0, 0]);
            }
            (false, SEND_RELATIVE) => self.respond([0x4567_0000, 0, 0, 0]),
            (false, SEND_CSD) if argument == 0x4567_0000 => self.respond(self.csd()),
            (false, SELECT) if argument == 0x4567_0000 => self.set(TRANSFER_COMPLETE),
            (false, STOP) => {
                self.transfer = None;
                self.set(TRANSFER_COMPLETE);
            }
            (false, READ_ONE | READ_SEVERAL | WRITE_ONE | WRITE_SEVERAL) => self.data(value, index, argument),
            (true, SET_BUS_WIDTH) | (false, SET_BLOCKLEN | GO_IDLE | ALL_SEND_CID) => {}
            other => panic!("the card is asked {other:?} {argument:#x}"),
        }
        self.set(COMMAND_COMPLETE);
    }

    fn data(&mut self, command: u32, index: u32, argument: u32) {
        let block = self.words[BLOCK as usize / 4];
        let (count, size) = (block >> 16, block & 0xfff);
        let several = matches!(index, READ_SEVERAL | WRITE_SEVERAL);
        let write = matches!(index, WRITE_ONE | WRITE_SEVERAL);
        assert_eq!((size, command & HAS_DATA != 0, command & FROM_CARD == 0), (512, true, write));
        assert_eq!(command & (SEVERAL | BLOCK_COUNT | AUTO_STOP) != 0, several);
        assert!(self.transfer.is_none(), "a transfer is under way");
        self.respond([self.faults.status, 0, 0, 0]);
        if let Some((status, times)) = &mut self.faults.data
            && *times != 0
        {
            *times -= 1;
            let status = *status;
            self.transfer = Some(Transfer { at: 0, left: count, write, buffer: vec![] });
            return self.set(status);
        }
        if self.faults.silent {
            return;
        }
        let at = if self.small { argument as usize } else { argument as usize * 512 };
        let left = if several { count } else { 1 };
        self.transfer = Some(Transfer { at, left, write, buffer: vec![] });
        self.ready();
    }

    fn ready(&mut self) {
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.left == 0 {
            self.transfer = None;
            return self.set(TRANSFER_COMPLETE);
        }
        if transfer.write {
            return self.set(WRITE_READY);
        }
        transfer.buffer = self.media[transfer.at..transfer.at + 512].to_vec();
        self.set(READ_READY);
    }

    fn moved(&mut self, word: Option<u32>) -> u32 {
        let transfer = self.transfer.as_mut().expect("data without a transfer");
        assert_eq!(transfer.write, word.is_some());
        let value = match word {
            Some(word) => {
                transfer.buffer.extend(word.to_le_bytes());
                0
            }
            None => u32::from_le_bytes(transfer.buffer.drain(..4).collect::<Vec<_>>().try_into().unwrap()),
        };
        let full = if transfer.write { transfer.buffer.len() == 512 } else { transfer.buffer.is_empty() };
        if full {
            if transfer.write {
                self.media[transfer.at..transfer.at + 512].copy_from_slice(&transfer.buffer);
                transfer.buffer.clear();
            }
            transfer.at += 512;
            transfer.left -= 1;
            self.ready();
        }
        value
    }
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Model>>);

impl Registers for Fake {
    fn read(&self, at: u64) -> u32 {
        let mut model = self.0.lock().unwrap();
        match at {
            BUFFER => model.moved(None),
            _ => model.words[at as usize / 4],
        }
    }
    fn write(&self, at: u64, value: u32) {
        let mut model = self.0.lock().unwrap();
        let place = at as usize / 4;
        match at {
            BUFFER => {
                model.moved(Some(value));
            }
            STATUS => model.words[place] &= !value,
            CLOCK => {
                let resets = RESET_ALL | RESET_LINES;
                let kept = if model.faults.no_controller || model.faults.stuck && value & RESET_LINES != 0 {
                    value & resets
                } else {
                    0
                };
                let stable = if value & INTERNAL != 0 { STABLE } else { 0 };
                model.words[place] = value & !resets | kept | stable;
            }
            COMMAND => model.command(value),
            RESPONSE | PRESENT | CAPABILITIES | VERSION => panic!("a store at {at:#x}"),
            _ => model.words[place] = value,
        }
    }
}

const SIZE: usize = 1 << 20;

fn fake(change: impl FnOnce(&mut Model)) -> Fake {
    let mut words = [0; 64];
    words[VERSION as usize / 4] = 2 << 16;
    words[CAPABILITIES as usize / 4] = 52 << 8;
    let media = (0..SIZE / 4).flat_map(|n| (n as u32).to_le_bytes()).collect();
    let mut model = Model {
        faults: Faults::default(),
        old: false,
        small: false,
        protected: false,
        media,
        words,
        transfer: None,
        app: false,
        commands: vec![],
        power_ups: 0,
    };
    change(&mut model);
    Fake(Arc::new(Mutex::new(model)))
}

fn start(fake: &Fake) -> Result<Card<Fake>, SdError> {
    // Each look at the time is 100 us later.
    let time = Cell::new(0);
    Card::start(fake.clone(), &|| {
        time.set(time.get() + 100_000);
        time.get()
    })
}

fn drive(change: impl FnOnce(&mut Model)) -> (Fake, SdDrive<Fake>) {
    let fake = fake(change);
    let drive = SdDrive::new(start(&fake).unwrap());
    (fake, drive)
}

struct Page(Vec<u8>, bool);

impl Data for Page {
    fn load(&mut self, at: u64, into: &mut [u8]) -> Result<(), Gone> {
        self.1.then(|| into.copy_from_slice(&self.0[at as usize..][..into.len()])).ok_or(Gone)
    }
    fn store(&mut self, at: u64, from: &[u8]) -> Result<(), Gone> {
        self.1.then(|| self.0[at as usize..][..from.len()].copy_from_slice(from)).ok_or(Gone)
    }
}

fn pattern(at: usize, size: usize) -> Vec<u8> {
    (at / 4..(at + size) / 4).flat_map(|n| (n as u32).to_le_bytes()).collect()
}

/// Interrupts as long as there are some that the controller shows; how many.
fn interrupts(fake: &Fake, drive: &mut SdDrive<Fake>) -> usize {
    for count in 0..1000 {
        let model = fake.0.lock().unwrap();
        let shown = model.words[STATUS as usize / 4] & model.words[SIGNAL_ENABLE as usize / 4];
        drop(model);
        if shown == 0 {
            return count;
        }
        drive.attend();
    }
    panic!("an interrupt that never ends");
}

#[test]
fn a_card_of_either_kind_is_started() {
    for (old, small) in [(false, false), (false, true), (true, true)] {
        let fake = fake(|model| (model.old, model.small) = (old, small));
        let card = start(&fake).unwrap();
        assert_eq!((card.size(), card.by_block, card.read_only), (SIZE as u64, !small, false), "{old} {small}");
        let model = fake.0.lock().unwrap();
        assert_eq!(model.words[CONTROL as usize / 4], POWER | FOUR_WIRES);
        // 52 MHz by 2 * 2 is the next below 25 MHz.
        assert_eq!(model.words[CLOCK as usize / 4] & 0xffff, 2 << 8 | INTERNAL | STABLE | TO_CARD);
        assert_eq!(model.words[SIGNAL_ENABLE as usize / 4], 0);
        let expected = [0, 8, 55, 141, 55, 141, 55, 141, 2, 3, 9, 7, 55, 106, 16];
        assert_eq!(model.commands, expected);
    }
}

#[test]
fn the_clock_is_never_too_fast() {
    for (version, mhz, expected) in
        [(2, 52, 2), (2, 100, 2), (2, 200, 4), (2, 0, 5), (1, 50, 1), (1, 52, 2), (0, 63, 2)]
    {
        let fake = fake(|model| {
            model.words[VERSION as usize / 4] = version << 16;
            model.words[CAPABILITIES as usize / 4] = mhz << 8;
        });
        start(&fake).unwrap();
        let clock = fake.0.lock().unwrap().words[CLOCK as usize / 4];
        assert_eq!(clock >> 8 & 0xff, expected, "version {version}, {mhz} MHz");
    }
}

#[test]
fn what_is_no_card_is_none() {
    let with = |faults| start(&fake(|model| model.faults = faults)).err();
    assert_eq!(with(Faults { no_card: true, ..Faults::default() }), Some(SdError::NoCard));
    assert_eq!(with(Faults { no_controller: true, ..Faults::default() }), Some(SdError::Controller));
    assert_eq!(with(Faults { never_powers_up: true, ..Faults::default() }), Some(SdError::NoPower));
}

#[test]
fn blocks_are_read_and_written_where_they_are() {
    for small in [false, true] {
        let (fake, mut drive) = drive(|model| model.small = small);
        for (tag, at, size) in [(0, 0, 512), (1, 512, LARGEST as usize), (31, SIZE - 1024, 1024)] {
            let mut page = Page(vec![0; size], true);
            let read = Request::Read { at: at as u64, size: size as u64 };
            assert_eq!(drive.submit(Tag(tag), read, &mut page), Ok(Progress::Started));
            assert!(!drive.has_ended(Tag(tag)));
            let count = interrupts(&fake, &mut drive);
            assert!(count >= size / 512 / AT_ONCE, "{count} interrupts for {size} bytes");
            assert!(drive.has_ended(Tag(tag)));
            assert_eq!(drive.finish(Tag(tag), Some(&mut page)), Ok(()));
            assert!(page.0 == pattern(at, size) && !drive.has_ended(Tag(tag)));
        }
        let mut page = Page((0..2048).map(|n| n as u8 ^ 0x5a).collect(), true);
        assert_eq!(drive.submit(Tag(4), Request::Write { at: 4096, size: 2048 }, &mut page), Ok(Progress::Started));
        // What is written was copied.
        let written = core::mem::take(&mut page.0);
        interrupts(&fake, &mut drive);
        assert_eq!(drive.finish(Tag(4), None), Ok(()));
        assert_eq!(fake.0.lock().unwrap().media[4096..6144], written);
        assert_eq!(fake.0.lock().unwrap().media[6144..8192], pattern(6144, 2048));
    }
}

#[test]
fn requests_are_done_in_the_order_in_which_they_came() {
    let (fake, mut drive) = drive(|_| {});
    let mut pages: Vec<Page> = (0..DEPTH).map(|_| Page(vec![0; 512], true)).collect();
    for tag in 0..DEPTH {
        let read = Request::Read { at: u64::from(tag) * 512, size: 512 };
        assert_eq!(drive.submit(Tag(tag), read, &mut pages[usize::from(tag)]), Ok(Progress::Started));
    }
    assert_eq!(drive.submit(Tag(3), Request::Read { at: 0, size: 512 }, &mut NoData), Err(DiskError::Io), "a used tag");
    let mut ended = 0;
    while ended != DEPTH {
        drive.attend();
        let now = (0..DEPTH).filter(|tag| drive.has_ended(Tag(*tag))).count() as u16;
        assert!((0..now).all(|tag| drive.has_ended(Tag(tag))), "out of order");
        assert!(now - ended <= AT_ONCE as u16);
        ended = now;
    }
    for (tag, page) in pages.iter_mut().enumerate() {
        assert_eq!(drive.finish(Tag(tag as u16), Some(page)), Ok(()));
        assert_eq!(page.0, pattern(tag * 512, 512));
    }
    assert_eq!(interrupts(&fake, &mut drive), 0);
}

#[test]
fn what_cannot_be_is_refused_and_a_flush_is_done() {
    let (_, mut drive) = drive(|_| {});
    let mut page = Page(vec![0; SIZE], true);
    let size = SIZE as u64;
    for (at, size) in [(0, 0), (0, LARGEST as u64 + 512), (size, 512), (size - 512, 1024), (1, 512), (0, 100)] {
        assert_eq!(
            drive.submit(Tag(0), Request::Read { at, size }, &mut page),
            Err(DiskError::OutOfRange),
            "{at} {size}"
        );
    }
    assert_eq!(drive.submit(Tag(0), Request::Flush, &mut NoData), Ok(Progress::Done(0)));
    assert_eq!(drive.submit(Tag(0), Request::Discard { at: 0, size: 512 }, &mut NoData), Err(DiskError::Unsupported));
    assert_eq!(drive.submit(Tag(DEPTH), Request::Read { at: 0, size: 512 }, &mut NoData), Err(DiskError::Io));
    assert_eq!(drive.submit(Tag(0), Request::Write { at: 0, size: 512 }, &mut NoData), Err(DiskError::Gone));
    assert!(!drive.has_ended(Tag(0)) && drive.finish(Tag(0), None) == Err(DiskError::Io));
}

#[test]
fn a_protected_card_is_not_written() {
    let (_, mut drive) = drive(|model| model.protected = true);
    assert!(drive.shape().read_only);
    let mut page = Page(vec![0; 512], true);
    assert_eq!(drive.submit(Tag(0), Request::Write { at: 0, size: 512 }, &mut page), Err(DiskError::ReadOnly));
}

#[test]
fn a_failed_transfer_is_stopped_and_tried_again() {
    let data_crc = 1 << 21 | 1 << 15;
    for (times, good) in [(1, true), (2, true), (3, false)] {
        let (fake, mut drive) = drive(|_| {});
        fake.0.lock().unwrap().faults.data = Some((data_crc, times));
        let mut page = Page(vec![0; 1024], true);
        drive.submit(Tag(0), Request::Read { at: 0, size: 1024 }, &mut page).unwrap();
        interrupts(&fake, &mut drive);
        let stops = fake.0.lock().unwrap().commands.iter().filter(|index| **index == STOP).count();
        assert_eq!((stops, drive.has_ended(Tag(0))), (times, true));
        let expected = if good { Ok(()) } else { Err(DiskError::Io) };
        assert_eq!((drive.finish(Tag(0), Some(&mut page)), page.0 == pattern(0, 1024)), (expected, good));
        // The next one finds the card as it should be.
        let mut page = Page(vec![0; 512], true);
        drive.submit(Tag(0), Request::Read { at: 512, size: 512 }, &mut page).unwrap();
        interrupts(&fake, &mut drive);
        assert_eq!((drive.finish(Tag(0), Some(&mut page)), page.0), (Ok(()), pattern(512, 512)));
    }
}

#[test]
fn what_the_card_says_counts() {
    // "Address error", "card ECC failed"; that it was out of range, or that the command before was none, is no error of this one.
    for (status, good) in [(1 << 30, false), (1 << 21, false), (1 << 31, true), (1 << 22, true), (0x900, true)] {
        let (fake, mut drive) = drive(|_| {});
        fake.0.lock().unwrap().faults.status = status;
        drive.submit(Tag(0), Request::Read { at: 0, size: 512 }, &mut NoData).unwrap();
        interrupts(&fake, &mut drive);
        let expected = if good { Ok(()) } else { Err(DiskError::Io) };
        assert_eq!(drive.finish(Tag(0), None), expected, "{status:#x}");
    }
}

#[test]
fn a_card_that_falls_silent_is_given_up() {
    let (fake, mut drive) = drive(|_| {});
    fake.0.lock().unwrap().faults.silent = true;
    let mut page = Page(vec![0; 512], true);
    for tag in 0..3 {
        drive.submit(Tag(tag), Request::Read { at: 0, size: 512 }, &mut page).unwrap();
    }
    assert_eq!(interrupts(&fake, &mut drive), 0);
    // One that waits, one that nobody knows, and the one that the card has.
    drive.give_up(Tag(1));
    drive.give_up(Tag(9));
    assert!(
        drive.has_ended(Tag(1)) && !drive.has_ended(Tag(0)) && !drive.has_ended(Tag(2)) && !drive.has_ended(Tag(9))
    );
    fake.0.lock().unwrap().faults.silent = false;
    drive.give_up(Tag(0));
    interrupts(&fake, &mut drive);
    let results = [0, 1, 2].map(|tag| drive.finish(Tag(tag), Some(&mut page)));
    assert_eq!(results, [Err(DiskError::Io), Err(DiskError::Io), Ok(())]);
    assert_eq!(page.0, pattern(0, 512));
}

#[test]
fn a_controller_that_cannot_be_reset_is_dead() {
    let (fake, mut drive) = drive(|_| {});
    fake.0.lock().unwrap().faults = Faults { silent: true, stuck: true, ..Faults::default() };
    for tag in 0..3 {
        drive.submit(Tag(tag), Request::Read { at: 0, size: 512 }, &mut NoData).unwrap();
    }
    drive.give_up(Tag(0));
    assert!((0..3).all(|tag| drive.finish(Tag(tag), None) == Err(DiskError::Io)), "nobody waits for it");
    assert_eq!(drive.submit(Tag(0), Request::Read { at: 0, size: 512 }, &mut NoData), Err(DiskError::Io));
}

#[test]
fn a_page_that_is_not_there_is_waited_for() {
    let (fake, mut drive) = drive(|_| {});
    let mut drive: Box<dyn Drive> = {
        let mut page = Page(vec![0; 512], false);
        drive.submit(Tag(0), Request::Read { at: 0, size: 512 }, &mut page).unwrap();
        interrupts(&fake, &mut drive);
        assert_eq!(drive.finish(Tag(0), Some(&mut page)), Err(DiskError::Gone));
        Box::new(drive)
    };
    let mut page = Page(vec![0; 512], true);
    assert!(drive.has_ended(Tag(0)));
    assert_eq!((drive.finish(Tag(0), Some(&mut page)), page.0), (Ok(()), pattern(0, 512)));
}
