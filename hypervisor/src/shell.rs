//! The management shell on the console's UART: commands typed at the prompt, answered between guests like the control line's.
//!
//! A command is worked on one call at a time, and its text waits here until the console has room for it: no step is longer than
//! a call, and nothing waits for the UART.

use crate::console;
use crate::manage::Machinery;
use ::console::PROMPT_BYTES;
use alloc::string::String;
use control::Control;
use control::shell::{Progress, Shell};

/// The command that is being worked on.
#[derive(Default)]
pub struct Session {
    shell: Shell,
    /// Text that has not gone to the console, from `at` on.
    text: String,
    at: usize,
    progress: Option<Progress>,
}

impl Session {
    /// Goes one step on. `true`: there is another to take now; otherwise a key, or room at the console, brings the next one.
    pub fn step(&mut self, control: &mut Control, host: &mut Machinery) -> bool {
        if self.progress.is_none() && !self.begin() {
            return false;
        }
        self.at += console::shell_write(self.text.as_bytes().get(self.at..).unwrap_or_default());
        if self.at < self.text.len() {
            // The console tells when there is room.
            return false;
        }
        self.text.clear();
        self.at = 0;
        match self.progress {
            Some(Progress::More) => {
                // A `String` takes whatever is written.
                let progress = self.shell.step(control, host, &mut self.text);
                self.progress = Some(progress.unwrap_or(Progress::Done));
                return true;
            }
            Some(Progress::Leave) => console::close_prompt(),
            Some(Progress::Attach(vm)) => {
                if let Some(source) = host.source(vm) {
                    console::set_focus(source);
                }
            }
            Some(Progress::Done) | None => {}
        }
        self.progress = None;
        console::command_done();
        false
    }

    /// Takes the command that was typed, if there is one.
    fn begin(&mut self) -> bool {
        let mut line = [0; PROMPT_BYTES];
        let Some(length) = console::take_command(&mut line) else { return false };
        let line = line.get(..length).and_then(|line| core::str::from_utf8(line).ok()).unwrap_or_default();
        // As above.
        let _ = self.shell.begin(line, &mut self.text);
        self.progress = Some(Progress::More);
        true
    }
}
