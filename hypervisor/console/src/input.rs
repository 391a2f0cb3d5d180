//! What is typed: to the VM with the focus, save for the keys after the escape.
//!
//! | after `Ctrl-]` | effect |
//! |---|---|
//! | `n`, `p` | the focus goes to the next, the previous VM |
//! | `1` to `9` | the focus goes to that VM, by the order in which they were made |
//! | `0` | no VM has the focus: every line gets its prefix |
//! | `Ctrl-]` | the VM gets one `Ctrl-]` |
//! | `s` | Merus prints the counters of the VM with the focus, or of all where none has it |
//! | `m` | the management shell's prompt ([`crate::prompt`]) |
//! | `?` | Merus prints this list |
//! | any other key | nothing; the key is dropped |

use crate::mux::VMS;
use crate::{Mux, SourceId};

/// `Ctrl-]`, the key that makes the next one a command.
pub const ESCAPE: u8 = 0x1d;

/// What became of a byte that was typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the byte may be for a VM"]
pub enum InputAction {
    /// The byte is for this VM.
    ToVm(SourceId, u8),
    /// The focus is there now, and a line says so: drain.
    FocusChanged(Option<SourceId>),
    /// The counters of this VM, or of all, are asked for.
    Report(Option<SourceId>),
    /// A command was typed at the prompt: [`Mux::take_command`].
    Command,
    /// The console has used the byte up; it may have queued a line: drain.
    Swallowed,
}

impl Mux {
    /// Takes one byte from the UART's receiver.
    pub fn input(&mut self, byte: u8) -> InputAction {
        if !core::mem::take(&mut self.escaped) {
            if byte == ESCAPE {
                self.escaped = true;
                return InputAction::Swallowed;
            }
            return if self.prompt.open { self.prompt_key(byte) } else { self.to_vm(byte) };
        }
        let count = self.sources();
        let current = self.focus_rank();
        match byte {
            ESCAPE => self.to_vm(byte),
            b'n' => {
                let next = current.map_or(0, |i| i.wrapping_add(1));
                self.change_focus(if next < count { next } else { 0 })
            }
            b'p' => {
                let last = count.saturating_sub(1);
                self.change_focus(current.and_then(|i| i.checked_sub(1)).unwrap_or(last))
            }
            b'0' => {
                self.set_focus(None);
                self.merus_line("console: no VM has the focus");
                InputAction::FocusChanged(None)
            }
            b'1'..=b'9' => self.change_focus(usize::from(byte.wrapping_sub(b'1'))),
            b'm' => {
                self.open_prompt();
                InputAction::Swallowed
            }
            b's' => InputAction::Report(self.focus()),
            b'?' => {
                self.merus_line(
                    "console: after Ctrl-]: n next VM, p previous, 1-9 that VM, 0 none, m the management shell, s statistics, Ctrl-] itself",
                );
                InputAction::Swallowed
            }
            _ => InputAction::Swallowed,
        }
    }

    fn to_vm(&self, byte: u8) -> InputAction {
        self.focus().map_or(InputAction::Swallowed, |source| InputAction::ToVm(source, byte))
    }

    /// Gives the focus to the VM of this rank; without one, nothing happens.
    fn change_focus(&mut self, index: usize) -> InputAction {
        let Some(source) = self.nth(index).and_then(|index| index.checked_sub(VMS)).map(SourceId::from_index) else {
            return InputAction::Swallowed;
        };
        self.set_focus(Some(source));
        self.merus_focus(self.focus);
        InputAction::FocusChanged(Some(source))
    }
}
