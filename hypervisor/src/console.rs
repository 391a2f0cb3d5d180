//! The board's UART and the line multiplexer in front of it, for all pCPUs.
//!
//! Before the UART is found, lines wait in the multiplexer. Nothing here waits for the UART but [`finish`], on the way out.

use crate::machine::machine;
use console::{InputAction, Mux, PROMPT_BYTES, Pushed, SourceId, Uart};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use devices::pl011::ByteSink;
use platform::uart;
use spin::Once;
use sync::{Rank, SpinLock};

struct Console {
    mux: Mux,
    uart: Option<Wire>,
    /// The UART took no more at the last drain.
    output_waits: bool,
}

struct Wire(uart::Uart);

impl Uart for Wire {
    #[inline]
    fn try_put(&mut self, byte: u8) -> bool {
        self.0.try_put(byte)
    }
}

static CONSOLE: Once<SpinLock<Console>> = Once::new();
/// When to drain at the latest, in ns; `u64::MAX` for never.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);
/// A VM's transmitter waits for room that is there now.
static RELIEVED: AtomicBool = AtomicBool::new(false);

fn console() -> &'static SpinLock<Console> {
    CONSOLE.call_once(|| SpinLock::new(Rank::Console, Console { mux: Mux::new(), uart: None, output_waits: false }))
}

impl Console {
    fn drain(&mut self) {
        let Some(uart) = self.uart.as_mut() else { return };
        let result = self.mux.drain(crate::time::now_ns(), uart);
        let deadline = result.next_deadline.unwrap_or(u64::MAX);
        let sooner = deadline < DEADLINE.swap(deadline, Ordering::Relaxed);
        if result.relieved {
            RELIEVED.store(true, Ordering::Relaxed);
        }
        if sooner || result.relieved {
            // Whoever prints is in the middle of something: this pCPU sets its timer, and wakes the transmitters that
            // waited, when it takes its own kick.
            if let Some(pcpu) = machine().and_then(|machine| machine.pcpus.get(el2::number())) {
                pcpu.recheck.store(true, Ordering::SeqCst);
            }
            crate::gic::kick_self();
        }
        self.output_waits = result.uart_full;
        uart.0.interrupts(true, result.uart_full);
    }
}

/// Takes the board's UART into use and prints what has been waiting.
pub fn attach(uart: uart::Uart) {
    UART.call_once(|| uart);
    let mut console = console().lock();
    console.uart = Some(Wire(uart));
    console.drain();
}

/// A VM's place at the console.
pub fn add_source(name: &str) -> SourceId {
    console().lock().mux.add_source(name)
}

/// Gives up a VM's place.
pub fn remove_source(source: SourceId) {
    console().lock().mux.remove_source(source);
}

/// What a VM has printed, from byte `from` on: fills `into` and says where its first byte was and how many there are.
pub fn read_back(source: SourceId, from: u64, into: &mut [u8]) -> (u64, usize) {
    console().lock().mux.read_back(source, from, into)
}

/// How many bytes a VM has printed.
pub fn printed(source: SourceId) -> u64 {
    console().lock().mux.printed(source)
}

/// Merus' own last lines, as [`Mux::log`].
pub fn log(from: u64, each: impl FnMut(u64, u64, &str) -> bool) -> u64 {
    let mut buffer = [0; 1024];
    console().lock().mux.log(from, &mut buffer, each)
}

/// Prints a line of Merus' own.
pub fn line(text: fmt::Arguments<'_>) {
    let mut console = console().lock();
    console.mux.log_at(crate::time::now_ns());
    console.mux.merus_fmt(text);
    console.drain();
}

/// `merus: ` and a formatted line.
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use say;

/// When [`poll`] is due, in ns.
#[inline]
pub fn deadline() -> u64 {
    DEADLINE.load(Ordering::Relaxed)
}

/// Sends what may go out now.
pub fn poll() {
    console().lock().drain();
}

/// The command that was typed at the prompt, as [`Mux::take_command`].
pub fn take_command(into: &mut [u8; PROMPT_BYTES]) -> Option<usize> {
    console().lock().mux.take_command(into)
}

/// Prints the shell's text as far as there is room, as [`Mux::shell_write`].
pub fn shell_write(text: &[u8]) -> usize {
    let mut console = console().lock();
    let count = console.mux.shell_write(text);
    console.drain();
    count
}

/// The command is answered.
pub fn command_done() {
    let mut console = console().lock();
    console.mux.command_done();
    console.drain();
}

/// Leaves the prompt.
pub fn close_prompt() {
    let mut console = console().lock();
    console.mux.close_prompt();
    console.drain();
}

/// Gives the focus to a VM, which leaves the prompt.
pub fn set_focus(source: SourceId) {
    let mut console = console().lock();
    console.mux.set_focus(Some(source));
    console.drain();
}

/// Whether [`next_relieved`] may have something.
#[inline]
pub fn relieved() -> bool {
    RELIEVED.load(Ordering::Relaxed)
}

/// The VMs whose transmitters may go on, one a call.
pub fn next_relieved() -> Option<SourceId> {
    if !relieved() {
        return None;
    }
    let next = console().lock().mux.next_relieved();
    if next.is_none() {
        RELIEVED.store(false, Ordering::Relaxed);
    }
    next
}

/// Prints everything, however long the UART takes. For the end.
pub fn finish() {
    let mut console = console().lock();
    finish_locked(&mut console);
}

fn finish_locked(console: &mut Console) {
    if let Some(uart) = console.uart.as_mut() {
        while console.mux.finish(uart).uart_full {
            sync::relax();
        }
    }
}

/// Last words: everything that waits, then these. If the lock does not come free (whoever holds it may be dead, or be this
/// pCPU in the middle of a print), they go to the UART as it is.
pub fn last_words(text: fmt::Arguments<'_>) {
    for _ in 0..LAST_PATIENCE {
        if let Some(mut console) = console().try_lock() {
            console.mux.merus_fmt(text);
            finish_locked(&mut console);
            return;
        }
        sync::relax();
    }
    if let Some(uart) = UART.get() {
        let _ = fmt::Write::write_fmt(&mut Raw(*uart), format_args!("\r\nmerus: {text}\r\n"));
    }
}

/// How often last words try for the lock.
const LAST_PATIENCE: u32 = 100_000;
/// The UART itself, for last words.
static UART: Once<uart::Uart> = Once::new();

struct Raw(uart::Uart);

impl fmt::Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while !self.0.try_put(byte) {
                sync::relax();
            }
        }
        Ok(())
    }
}

/// What the UART has received, for `deliver`: (VM's place, byte); for `report`: whose counters are asked for, `None` for all's;
/// for `command`: there is one for the shell. Stops where there is no `room`, or the shell works on a command; the byte then stays
/// in the UART and the receive interrupt is off until the next print or call. Returns whether that was so.
///
/// None of them is called with the console's lock held: they take devices' locks, which come before it.
pub fn input(
    room: impl Fn(SourceId) -> bool,
    mut deliver: impl FnMut(SourceId, u8),
    mut report: impl FnMut(Option<SourceId>),
    mut command: impl FnMut(),
) -> bool {
    loop {
        let focus = console().lock().mux.focus();
        let full = focus.is_some_and(|f| !room(f));
        let mut console = console().lock();
        let Some(uart) = console.uart.as_ref().map(|w| w.0) else { return false };
        uart.acknowledge();
        if full || console.mux.is_commanded() {
            uart.interrupts(false, console.output_waits);
            return true;
        }
        let Some(byte) = uart.get() else {
            console.drain();
            return false;
        };
        match console.mux.input(byte) {
            InputAction::ToVm(source, byte) => {
                drop(console);
                deliver(source, byte);
            }
            InputAction::Report(whose) => {
                drop(console);
                report(whose);
            }
            InputAction::Command => {
                console.drain();
                drop(console);
                command();
            }
            InputAction::FocusChanged(_) | InputAction::Swallowed => console.drain(),
        }
    }
}

/// Where a VM's UART sends its bytes.
pub struct VmSink(pub SourceId);

impl ByteSink for VmSink {
    #[inline]
    fn put(&mut self, byte: u8) -> bool {
        let mut guard = console().lock();
        let console = &mut *guard;
        let pushed = match console.uart.as_mut() {
            Some(uart) => console.mux.push_through(self.0, byte, uart),
            None => console.mux.push(self.0, byte),
        };
        match pushed {
            Pushed::Sent => true,
            Pushed::Queued { drain } => {
                if drain {
                    console.drain();
                }
                true
            }
            Pushed::Full => false,
        }
    }
}
