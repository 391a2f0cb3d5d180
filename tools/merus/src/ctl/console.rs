//! `merus ctl console`: what a VM prints, and what is typed for it.

use super::{Console, Session, say};
use merus_client::Error;
use proto::{MAX_CHUNK, Refusal, VmState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{ErrorKind, IsTerminal, Stdin, Write, stdin, stdout};
use std::time::{Duration, Instant};

/// How often there is a look for output when nothing happens.
const POLL: Duration = Duration::from_millis(40);
/// Ctrl-].
const ESCAPE: u8 = 0x1d;
/// How much may be typed ahead.
const AHEAD: usize = 16 << 10;

const HELP: &str = "\r\nmerus: Ctrl-] then q detaches, Ctrl-] sends one Ctrl-], ? prints this\r\n";

/// What an escape sequence asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Detach,
    Help,
}

/// Takes the escape sequences out of what is typed.
#[derive(Default)]
struct Escape {
    pending: bool,
}

impl Escape {
    /// What is for the VM goes to `out`. Nothing behind a wish to detach is looked at.
    fn feed(&mut self, typed: &[u8], out: &mut Vec<u8>) -> Option<Wish> {
        let mut wish = None;
        for byte in typed {
            match (std::mem::take(&mut self.pending), *byte) {
                (false, ESCAPE) => self.pending = true,
                (false, byte) | (true, byte @ ESCAPE) => out.push(byte),
                (true, b'q' | b'Q') => return Some(Wish::Detach),
                (true, _) => wish = Some(Wish::Help),
            }
        }
        wish
    }
}

/// Finds a text in pieces of output.
struct Search {
    text: Vec<u8>,
    tail: Vec<u8>,
}

impl Search {
    fn new(text: &str) -> Self {
        Self { text: text.as_bytes().to_vec(), tail: Vec::new() }
    }

    fn found(&mut self, piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        let found = self.text.is_empty() || self.tail.windows(self.text.len()).any(|window| window == self.text);
        self.tail.drain(..self.tail.len().saturating_sub(self.text.len().saturating_sub(1)));
        found
    }
}

/// A terminal without line editing, echo and signals, until it is dropped.
struct Raw {
    was: Termios,
}

impl Raw {
    fn new() -> Option<Self> {
        let was = tcgetattr(stdin()).ok().filter(|_| stdin().is_terminal())?;
        let mut raw = was.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { was })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.was);
    }
}

/// What has been typed and not been sent.
struct Input {
    from: Stdin,
    /// On a terminal there are escape sequences; a pipe's bytes are all for the VM.
    escape: Option<Escape>,
    queue: Vec<u8>,
    ended: bool,
}

impl Input {
    /// Waits for what is typed, at most `limit`.
    fn read(&mut self, limit: Duration) -> Option<Wish> {
        let full = if self.escape.is_some() { AHEAD } else { 1 };
        if self.ended || (self.escape.is_none() && self.queue.len() >= full) {
            std::thread::sleep(limit);
            return None;
        }
        let time = Timespec { tv_sec: 0, tv_nsec: limit.as_nanos() as _ };
        if !poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0) {
            return None;
        }
        let mut buffer = [0; MAX_CHUNK];
        let count = match rustix::io::read(&self.from, &mut buffer) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return None,
            Err(_) => 0,
        };
        self.ended = count == 0;
        let typed = &buffer[..count];
        match &mut self.escape {
            None => self.queue.extend_from_slice(typed),
            Some(escape) => {
                let wish = escape.feed(typed, &mut self.queue);
                self.queue.truncate(full);
                return wish;
            }
        }
        None
    }

    /// Sends what has room. Whether something was taken.
    fn send(&mut self, s: &mut Session, vm: &str) -> Result<bool, Error> {
        if self.queue.is_empty() {
            return Ok(false);
        }
        match s.client.type_at(vm, &self.queue) {
            Ok(taken) => {
                self.queue.drain(..taken.min(self.queue.len()));
                Ok(taken > 0)
            }
            // Nobody will read it any more.
            Err(Error::Refused(Refusal::State { is: VmState::Stopped(_) })) => {
                self.queue.clear();
                Ok(false)
            }
            // It may run soon.
            Err(Error::Refused(Refusal::State { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Attaches until the user, the input, the VM or the text that is waited for says that it is enough.
pub fn run(s: &mut Session, console: &Console) -> Result<(), Error> {
    let row = s.client.info(&console.vm)?;
    let from = if console.no_backlog { row.console } else { 0 };
    let raw = Raw::new();
    let tell = |text: String| {
        if raw.is_some() {
            eprint!("\r\nmerus: {text}\r\n")
        }
    };
    tell(format!("vm \"{}\" is {}; Ctrl-] then q detaches", console.vm, row.state));
    let escape = raw.is_some().then(Escape::default);
    let input = Input { from: stdin(), escape, queue: Vec::new(), ended: false };
    let done = attach(s, console, from, input);
    match &done {
        Ok(End::Vm) => tell(format!("vm \"{}\" has ended", console.vm)),
        Ok(_) => tell("detached".into()),
        Err(_) => {}
    }
    drop(raw);
    done.map(|_| ())
}

/// Why it is enough.
enum End {
    Vm,
    User,
}

fn attach(s: &mut Session, console: &Console, mut from: u64, mut input: Input) -> Result<End, Error> {
    let vm = &console.vm;
    let mut search = console.until.as_deref().map(Search::new);
    let start = Instant::now();
    let mut moved = Instant::now();
    let mut wait = Duration::ZERO;
    loop {
        match input.read(wait) {
            Some(Wish::Detach) => return Ok(End::User),
            Some(Wish::Help) => say(HELP),
            None => {}
        }
        let typed = input.send(s, vm)?;
        let part = s.client.console(vm, from)?;
        if part.from > from && from > 0 {
            eprint!("\r\nmerus: {} bytes of output were overwritten\r\n", part.from - from);
        }
        print(&part.bytes.0);
        from = part.from.saturating_add(part.bytes.0.len() as u64);
        if search.as_mut().is_some_and(|search| search.found(&part.bytes.0)) {
            return Ok(End::User);
        }
        let quiet = part.bytes.0.is_empty();
        if quiet && !part.live {
            let Some(text) = &console.until else { return Ok(End::Vm) };
            let wanted = format!("print \"{text}\"");
            return Err(Error::Ended { vm: vm.clone(), state: s.client.info(vm)?.state, wanted });
        }
        if let Some(text) = console.until.as_ref().filter(|_| start.elapsed() >= s.timeout) {
            return Err(Error::NotSeen { vm: vm.clone(), text: text.clone(), limit: s.timeout });
        }
        if quiet && input.ended && input.queue.is_empty() && !typed && search.is_none() && wait > Duration::ZERO {
            return Ok(End::User);
        }
        if typed || input.queue.is_empty() {
            moved = Instant::now();
        }
        if input.escape.is_none() && moved.elapsed() >= s.timeout {
            let state = s.client.info(vm)?.state;
            return Err(Error::Waiting { vm: vm.clone(), state, wanted: "reading what is typed", limit: s.timeout });
        }
        wait = if quiet && !typed { POLL } else { Duration::ZERO };
    }
}

fn print(bytes: &[u8]) {
    let mut out = stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush())
        && error.kind() == ErrorKind::BrokenPipe
    {
        drop(out);
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_found_wherever_the_typing_is_cut() {
        type Case = (&'static [&'static [u8]], &'static [u8], Option<Wish>);
        let cases: [Case; 7] = [
            (&[b"ls\r"], b"ls\r", None),
            (&[b"a\x1dq", b"never"], b"a", Some(Wish::Detach)),
            (&[b"a\x1d", b"q"], b"a", Some(Wish::Detach)),
            (&[b"\x1d\x1d", b"q"], b"\x1dq", None),
            (&[b"\x1d", b"\x1d\x1d", b"Q"], b"\x1d", Some(Wish::Detach)),
            (&[b"\x1d?x"], b"x", Some(Wish::Help)),
            (&[b"q\x1dz"], b"q", Some(Wish::Help)),
        ];
        for (pieces, sent, wish) in cases {
            let (mut escape, mut out) = (Escape::default(), Vec::new());
            let got = pieces.iter().map(|piece| escape.feed(piece, &mut out)).find(Option::is_some).flatten();
            assert_eq!((&out[..], got), (sent, wish), "{pieces:?}");
        }
    }

    #[test]
    fn a_text_is_found_across_pieces() {
        let found = |text: &str, pieces: &[&[u8]]| {
            let mut search = Search::new(text);
            pieces.iter().position(|piece| search.found(piece))
        };
        assert_eq!(found("login:", &[b"deb", b"ian log", b"in: "]), Some(2));
        assert_eq!(found("aab", &[b"a", b"a", b"a", b"b"]), Some(3));
        assert_eq!(found("x", &[b"", b"y", b"xx"]), Some(2));
        assert_eq!(found("login:", &[b"log", b"out:"]), None);
        assert_eq!(found("", &[b""]), Some(0));
    }
}
