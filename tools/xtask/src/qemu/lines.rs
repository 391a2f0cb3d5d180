//! What QEMU prints, as lines.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;
use std::thread;

/// What QEMU says once with an instruction clock, in the middle of whatever line the console prints then. Every machine that sleeps
/// until somebody types comes to that.
const NO_TIMERS: &str = "icount sleep disabled and no active timers";

/// Reads both pipes as they fill, the errors by lines; the channel closes when both have ended.
pub fn chunks(out: impl Read + Send + 'static, err: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    fn pump(mut pipe: impl Read, to: &mpsc::Sender<Vec<u8>>) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if to.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    }
    let (to, from) = mpsc::channel();
    let err_to = to.clone();
    thread::spawn(move || pump(out, &to));
    thread::spawn(move || {
        for line in BufReader::new(err).split(b'\n').map_while(Result::ok) {
            let line = [&line[..], b"\n"].concat();
            if !String::from_utf8_lossy(&line).contains(NO_TIMERS) && err_to.send(line).is_err() {
                return;
            }
        }
    });
    from
}

/// Cuts a stream into lines without their ends.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            lines.push(clean(&line));
        }
        lines
    }

    /// What came after the last newline.
    pub fn rest(&mut self) -> Option<String> {
        let rest = clean(&std::mem::take(&mut self.partial));
        (!rest.is_empty()).then_some(rest)
    }
}

/// A line as text: no carriage returns or newline, and nothing that would move a terminal's cursor.
fn clean(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}
