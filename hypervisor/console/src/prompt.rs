//! The prompt of the management shell: a source of its own that has the focus while it is open, and the line that is typed at it.
//!
//! | key | effect |
//! |---|---|
//! | printable ASCII | joins the line, up to [`PROMPT_BYTES`] |
//! | Return | the line is a command, which its owner takes ([`Mux::take_command`]); input waits until [`Mux::command_done`] |
//! | Backspace, `Ctrl-U` | takes back the last character, the line |
//! | `Ctrl-C` | a new line |
//! | `Ctrl-D` on an empty line | leaves |
//! | anything else, and what an escape sequence has | nothing |
//!
//! Whose bytes are on the screen must be plain while commands are typed. So no VM has the focus then: each of its lines has its
//! prefix, and of these lines only printable ASCII and tabs are shown as they are; everything else is a `?`, because a
//! carriage return or an escape sequence could write over the prefix, or draw a prompt. What is kept of the output to be read
//! again is not changed by that. A prompt's line that was broken by another's is written again with the next key.

use crate::mux::{NONE, SHELL, VMS};
use crate::{InputAction, Mux, SourceId};

/// What stands before a command.
pub const PROMPT: &str = "merus> ";
/// The most bytes of a command.
pub const PROMPT_BYTES: usize = 240;

/// Where the prompt is with its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Typing,
    /// A command that nobody has taken yet.
    Typed,
    /// A command that is being worked on.
    Taken,
}

/// An escape sequence that is typed, such as an arrow key's: all of it is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sequence {
    None,
    Begun,
    Within,
}

/// The prompt and its line.
pub(crate) struct Prompt {
    pub(crate) open: bool,
    /// Who had the focus before.
    pub(crate) before: usize,
    line: [u8; PROMPT_BYTES],
    length: usize,
    phase: Phase,
    sequence: Sequence,
    /// The last byte was a carriage return: a line feed right after it is part of it.
    returned: bool,
}

impl Prompt {
    pub(crate) const fn new() -> Self {
        Self {
            open: false,
            before: NONE,
            line: [0; PROMPT_BYTES],
            length: 0,
            phase: Phase::Typing,
            sequence: Sequence::None,
            returned: false,
        }
    }
}

/// What a VM's byte is shown as beside the prompt; `None`: not at all. `next` is the byte after it.
pub(crate) fn tame(byte: u8, next: Option<u8>) -> Option<u8> {
    match byte {
        b' '..=b'~' | b'\t' | b'\n' => Some(byte),
        b'\r' => (next == Some(b'\n')).then_some(byte),
        _ => Some(b'?'),
    }
}

impl Mux {
    /// Opens the prompt, or shows it again.
    pub(crate) fn open_prompt(&mut self) {
        if !self.prompt.open {
            self.prompt.open = true;
            self.prompt.before = self.focus;
            self.prompt.length = 0;
            self.focus = SHELL;
            self.end_raw_line();
            self.update_direct();
            self.merus_line("console: the shell has the focus: `help` lists its commands, `exit` leaves it");
        }
        if self.prompt.phase == Phase::Typing {
            self.show_prompt();
        }
    }

    /// Leaves the prompt; the focus goes to whoever had it before.
    pub fn close_prompt(&mut self) {
        if self.prompt.open {
            let before = self.prompt.before;
            self.leave_prompt();
            self.focus = before;
            self.update_direct();
            if before == NONE {
                self.merus_line("console: no VM has the focus");
            } else {
                self.merus_focus(before);
            }
        }
    }

    /// The prompt has not the focus any more. What was typed at it is forgotten; a command that was taken goes on.
    pub(crate) fn leave_prompt(&mut self) {
        if core::mem::take(&mut self.prompt.open) && self.prompt.phase == Phase::Typing {
            self.echo(b"\r\n");
            self.prompt.length = 0;
        }
    }

    /// Whether input has to wait for the end of a command.
    pub fn is_commanded(&self) -> bool {
        self.prompt.open && self.prompt.phase != Phase::Typing
    }

    /// Copies the command that was typed into `into`, once, and says how long it is.
    pub fn take_command(&mut self, into: &mut [u8; PROMPT_BYTES]) -> Option<usize> {
        if self.prompt.phase != Phase::Typed {
            return None;
        }
        self.prompt.phase = Phase::Taken;
        *into = self.prompt.line;
        Some(self.prompt.length)
    }

    /// The command has been answered: the next may be typed.
    pub fn command_done(&mut self) {
        self.prompt.phase = Phase::Typing;
        self.prompt.length = 0;
        if self.prompt.open {
            self.show_prompt();
        }
    }

    /// Queues the shell's output and returns how many bytes of it had room. Where that is not all, [`Mux::next_relieved`] names
    /// [`SourceId::SHELL`] when there is room again.
    pub fn shell_write(&mut self, text: &[u8]) -> usize {
        for (count, byte) in text.iter().enumerate() {
            // A line end takes two.
            let room = self.sources.get(SHELL).map_or(0, |s| s.ring.capacity().saturating_sub(s.ring.len()));
            if room < 2 {
                if let Some(entry) = self.sources.get_mut(SHELL) {
                    entry.refused = true;
                }
                return count;
            }
            if *byte == b'\n' {
                let _ = self.push(SourceId::SHELL, b'\r');
            }
            let _ = self.push(SourceId::SHELL, *byte);
        }
        text.len()
    }

    /// A key at the prompt.
    pub(crate) fn prompt_key(&mut self, byte: u8) -> InputAction {
        let returned = core::mem::take(&mut self.prompt.returned);
        match (self.prompt.sequence, byte) {
            (Sequence::Begun, b'[' | b'O') => self.prompt.sequence = Sequence::Within,
            (Sequence::Begun, _) | (Sequence::Within, b'@'..=b'~') => self.prompt.sequence = Sequence::None,
            (Sequence::Within, _) => {}
            (Sequence::None, 0x1b) => self.prompt.sequence = Sequence::Begun,
            (Sequence::None, b'\n') if returned => {}
            (Sequence::None, _) => return self.edit(byte),
        }
        InputAction::Swallowed
    }

    fn edit(&mut self, byte: u8) -> InputAction {
        self.restore();
        let length = self.prompt.length;
        match byte {
            b'\r' | b'\n' => {
                self.prompt.returned = byte == b'\r';
                self.echo(b"\r\n");
                let blank = self.prompt.line.iter().take(length).all(|byte| *byte == b' ');
                if !blank {
                    self.prompt.phase = Phase::Typed;
                    return InputAction::Command;
                }
                self.prompt.length = 0;
                self.show_prompt();
            }
            0x08 | 0x7f => self.take_back(1),
            // Ctrl-U, Ctrl-C, Ctrl-D.
            0x15 => self.take_back(length),
            0x03 => {
                self.prompt.length = 0;
                self.echo(b"^C\r\n");
                self.show_prompt();
            }
            0x04 if length == 0 => self.close_prompt(),
            b' '..=b'~' => {
                if let Some(place) = self.prompt.line.get_mut(length) {
                    *place = byte;
                    self.prompt.length = length.saturating_add(1);
                    self.echo(&[byte]);
                }
            }
            _ => {}
        }
        InputAction::Swallowed
    }

    fn take_back(&mut self, count: usize) {
        for _ in 0..count.min(self.prompt.length) {
            self.prompt.length = self.prompt.length.saturating_sub(1);
            self.echo(b"\x08 \x08");
        }
    }

    /// Writes a line again that another's has broken.
    fn restore(&mut self) {
        if self.sources.get_mut(SHELL).is_some_and(|entry| core::mem::take(&mut entry.broken)) {
            self.show_prompt();
        }
    }

    fn show_prompt(&mut self) {
        if let Some(entry) = self.sources.get_mut(SHELL) {
            entry.broken = false;
        }
        self.echo(PROMPT.as_bytes());
        let (line, length) = (self.prompt.line, self.prompt.length);
        self.echo(line.get(..length).unwrap_or_default());
    }

    /// What does not fit is not shown; the line has it all the same.
    fn echo(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let _ = self.push(SourceId::SHELL, *byte);
        }
        if let Some(entry) = self.sources.get_mut(SHELL) {
            // Nobody waits for an echo.
            entry.refused = false;
        }
    }

    /// Ends a VM's line that began raw, so that what follows it has its prefix.
    fn end_raw_line(&mut self) {
        if (VMS..NONE).contains(&self.owner) {
            self.break_line();
        }
    }
}
