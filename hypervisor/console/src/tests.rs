extern crate std;

use proptest::prelude::*;
use std::{collections::VecDeque, format, string::String, vec, vec::Vec};

use super::*;

/// A UART that takes `room` bytes until it is given more.
struct FakeUart {
    bytes: Vec<u8>,
    room: usize,
}

impl FakeUart {
    fn new() -> Self {
        Self { bytes: Vec::new(), room: usize::MAX }
    }
    fn text(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.bytes)).unwrap()
    }
}

impl Uart for FakeUart {
    fn try_put(&mut self, byte: u8) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.bytes.push(byte);
        true
    }
}

const MS: u64 = 1_000_000;

fn mux(names: &[&str]) -> (Mux, Vec<SourceId>) {
    let mut mux = Mux::new();
    let ids = names.iter().map(|name| mux.add_source(name)).collect();
    (mux, ids)
}

fn say(mux: &mut Mux, source: SourceId, text: &str) {
    for byte in text.bytes() {
        assert_ne!(mux.push(source, byte), Pushed::Full);
    }
}

#[test]
fn the_focus_goes_straight_out_byte_by_byte() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    for byte in b"login: " {
        assert_eq!(mux.push_through(ids[0], *byte, &mut out), Pushed::Sent);
    }
    for byte in b"\r\n\x1b[1mx" {
        assert_eq!(mux.push_through(ids[0], *byte, &mut out), Pushed::Sent);
    }
    assert_eq!(out.text(), "login: \r\n\x1b[1mx");
    assert_eq!(mux.drain(0, &mut out), DrainResult::default());
}

/// Types each byte as a person would, and returns what was printed for it.
fn type_at(mux: &mut Mux, out: &mut FakeUart, now: u64, text: &str) -> String {
    for byte in text.bytes() {
        let _ = mux.input(byte);
        mux.drain(now, out);
    }
    out.text()
}

fn command(mux: &mut Mux) -> Option<String> {
    let mut line = [0; PROMPT_BYTES];
    mux.take_command(&mut line).map(|length| String::from_utf8(line[..length].to_vec()).unwrap())
}

const OPENED: &str = "merus: console: the shell has the focus: `help` lists its commands, `exit` leaves it\r\nmerus> ";

#[test]
fn a_command_is_typed_answered_and_followed_by_the_next_prompt() {
    let (mut mux, ids) = mux(&["a"]);
    let mut out = FakeUart::new();
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x1dm"), OPENED);
    assert_eq!((mux.focus(), mux.is_commanded()), (None, false));
    assert_eq!(type_at(&mut mux, &mut out, 0, "lisX\x7ft\x1b[A"), "lisX\x08 \x08t");
    assert_eq!(command(&mut mux), None);
    assert_eq!(mux.input(b'\r'), InputAction::Command);
    assert!(mux.is_commanded());
    assert_eq!((command(&mut mux).as_deref(), command(&mut mux)), (Some("list"), None));
    assert_eq!(mux.shell_write(b"one\ntwo\n"), 8);
    mux.command_done();
    mux.drain(0, &mut out);
    assert_eq!(out.text(), "\r\none\r\ntwo\r\nmerus> ");
    // A line feed after the return is part of it; blanks are no command.
    assert_eq!(type_at(&mut mux, &mut out, 0, "\n  \r\n"), "  \r\nmerus> ");
    assert_eq!(type_at(&mut mux, &mut out, 0, "ab\x15c"), "ab\x08 \x08\x08 \x08c");
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x03"), "^C\r\nmerus> ");
    // Nothing of that was for the VM, which has the focus again after `exit`'s key.
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x04"), "\r\nmerus: console: [a] has the focus\r\n");
    assert_eq!(mux.input(b'x'), InputAction::ToVm(ids[0], b'x'));
}

#[test]
fn a_prompt_is_left_by_the_focus_keys_as_well() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    type_at(&mut mux, &mut out, 0, "\x1dmhalf");
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x1d2"), "\r\nmerus: console: [b] has the focus\r\n");
    assert_eq!(mux.input(b'x'), InputAction::ToVm(ids[1], b'x'));
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x1dm"), OPENED);
    // The one that had the focus goes away meanwhile.
    mux.remove_source(ids[1]);
    type_at(&mut mux, &mut out, 0, "\x04");
    assert_eq!(mux.focus(), Some(ids[0]));
}

#[test]
fn a_line_too_long_is_cut_and_a_full_uart_loses_no_key() {
    let (mut mux, _) = mux(&["a"]);
    let mut out = FakeUart::new();
    type_at(&mut mux, &mut out, 0, "\x1dm");
    out.room = 3;
    type_at(&mut mux, &mut out, 0, &"x".repeat(PROMPT_BYTES + 9));
    assert_eq!(mux.input(b'\r'), InputAction::Command);
    assert_eq!(command(&mut mux).unwrap(), "x".repeat(PROMPT_BYTES));
}

#[test]
fn output_beyond_the_ring_is_told_of_and_none_is_lost() {
    let (mut mux, _) = mux(&["a"]);
    let mut out = FakeUart::new();
    type_at(&mut mux, &mut out, 0, "\x1dmlog\r");
    out.room = 0;
    let text = "0123456789abcdef\n".repeat(1000);
    let mut at = mux.shell_write(text.as_bytes());
    assert!(at < SOURCE_BYTES && mux.next_relieved().is_none());
    out.room = usize::MAX;
    while at < text.len() {
        assert!(mux.drain(0, &mut out).relieved);
        assert_eq!((mux.next_relieved(), mux.next_relieved()), (Some(SourceId::SHELL), None));
        at += mux.shell_write(&text.as_bytes()[at..]);
    }
    mux.drain(0, &mut out);
    assert_eq!(out.text(), text.replace('\n', "\r\n"));
}

#[test]
fn no_guest_can_draw_a_prompt_over_the_real_one() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    // A line of the focus that begins raw ends when the prompt opens.
    say(&mut mux, ids[0], "merus> fake");
    mux.drain(0, &mut out);
    assert_eq!(out.text(), "merus> fake");
    assert_eq!(type_at(&mut mux, &mut out, 0, "\x1dm"), std::format!("\r\n{OPENED}"));
    type_at(&mut mux, &mut out, 0, "des");
    say(&mut mux, ids[0], "\rmerus> \x1b[2K\u{9b}\u{e9}\ttab\r\n");
    say(&mut mux, ids[1], "\rmerus> ok\r\n");
    mux.drain(0, &mut out);
    mux.drain(200 * MS, &mut out);
    assert_eq!(out.text(), "\r\n[b] merus> ok\r\n[a]+ merus> ?[2K????\ttab\r\n");
    // Not even past the rings, in the middle of a line.
    assert!(matches!(mux.push_through(ids[1], b'x', &mut out), Pushed::Queued { .. }));
    mux.drain(400 * MS, &mut out);
    mux.drain(600 * MS, &mut out);
    assert!(matches!(mux.push_through(ids[1], b'\r', &mut out), Pushed::Queued { .. }));
    mux.drain(600 * MS, &mut out);
    assert_eq!(out.text(), "[b] x");
    // The prompt comes back with what was typed.
    type_at(&mut mux, &mut out, 600 * MS, "t");
    mux.drain(900 * MS, &mut out);
    assert_eq!(out.text(), "\r\nmerus> dest");
    // What is kept is what was said.
    let mut kept = [0; 64];
    let (_, count) = mux.read_back(ids[1], 0, &mut kept);
    assert_eq!(&kept[..count], b"\rmerus> ok\r\nx\r");
}

#[test]
fn what_was_printed_can_be_read_again_however_it_went_out() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    assert_eq!(mux.push_through(ids[0], b'x', &mut out), Pushed::Sent);
    say(&mut mux, ids[0], "yz");
    say(&mut mux, ids[1], "other");
    let mut into = [0; 8];
    assert_eq!(mux.read_back(ids[0], 0, &mut into), (0, 3));
    assert_eq!(&into[..3], b"xyz");
    assert_eq!((mux.printed(ids[0]), mux.printed(ids[1])), (3, 5));
    mux.log_at(7);
    mux.merus_line("hello");
    let mut seen = Vec::new();
    assert_eq!(
        mux.log(0, &mut [0; 64], |n, at, text| {
            seen.push((n, at, String::from(text)));
            true
        }),
        0
    );
    assert_eq!(seen, [(0, 7, String::from("hello"))]);
}

#[test]
fn a_place_that_was_given_up_is_used_again_when_all_is_printed() {
    let (mut mux, ids) = mux(&["a", "b", "c"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "last words\n");
    mux.remove_source(ids[1]);
    assert_eq!(mux.sources(), 2);
    assert_eq!(mux.read_back(ids[1], 0, &mut [0; 8]), (0, 0));
    let next = mux.add_source("d");
    assert_eq!(next.index(), 3, "its words wait");
    mux.drain(0, &mut out);
    assert_eq!(out.text(), "[b] last words\n");
    assert_eq!(mux.add_source("e").index(), 1);
    mux.remove_source(ids[0]);
    assert_eq!(mux.focus().map(SourceId::index), Some(1), "the focus goes on");
    // The keys count the VMs that are there: e, c, d.
    assert_eq!(mux.input(ESCAPE), InputAction::Swallowed);
    assert_eq!(mux.input(b'3'), InputAction::FocusChanged(Some(next)));
    assert_eq!(mux.input(ESCAPE), InputAction::Swallowed);
    assert_eq!(mux.input(b'n'), InputAction::FocusChanged(Some(SourceId::from_index(1))));
}

#[test]
fn a_byte_of_another_vm_never_goes_straight_out() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    assert_eq!(mux.push_through(ids[1], b'x', &mut out), Pushed::Queued { drain: true });
    assert_eq!(out.text(), "");
}

#[test]
fn other_lines_have_a_prefix_and_wait_for_their_end() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "hel");
    assert_eq!(mux.drain(5, &mut out).next_deadline, Some(5 + IDLE_NS));
    assert_eq!(out.text(), "");
    say(&mut mux, ids[1], "lo\r\nnext\r\n");
    assert_eq!(mux.drain(6, &mut out).next_deadline, None);
    assert_eq!(out.text(), "[b] hello\r\n[b] next\r\n");
}

#[test]
fn a_part_of_a_line_is_printed_after_100_ms_and_goes_on_where_it_was() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "wait");
    let _ = mux.drain(0, &mut out);
    let _ = mux.drain(IDLE_NS - 1, &mut out);
    assert_eq!(out.text(), "");
    let _ = mux.drain(IDLE_NS, &mut out);
    assert_eq!(out.text(), "[b] wait");
    assert_eq!(mux.push_through(ids[1], b'.', &mut out), Pushed::Sent);
    assert_eq!(mux.push_through(ids[1], b'\n', &mut out), Pushed::Sent);
    assert_eq!(out.text(), ".\n");
    // At the start of the next line, it has to wait again.
    assert_eq!(mux.push_through(ids[1], b'x', &mut out), Pushed::Queued { drain: true });
}

#[test]
fn each_part_of_a_line_has_100_ms_of_its_own() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "one\ntw");
    assert_eq!(mux.drain(MS, &mut out).next_deadline, Some(MS + IDLE_NS));
    assert_eq!(out.text(), "[b] one\n");
    let _ = mux.drain(MS + IDLE_NS, &mut out);
    assert_eq!(out.text(), "[b] tw");
    say(&mut mux, ids[1], "o\nthr");
    assert_eq!(mux.drain(2 * IDLE_NS, &mut out).next_deadline, Some(3 * IDLE_NS));
    assert_eq!(out.text(), "o\n");
}

#[test]
fn a_line_waits_for_the_end_of_the_one_that_is_open() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    assert_eq!(mux.push_through(ids[0], b'a', &mut out), Pushed::Sent);
    say(&mut mux, ids[1], "one\n");
    assert_eq!(mux.drain(MS, &mut out).next_deadline, Some(MS + IDLE_NS));
    assert_eq!(mux.push_through(ids[0], b'A', &mut out), Pushed::Queued { drain: true });
    assert_eq!(mux.push_through(ids[0], b'\n', &mut out), Pushed::Queued { drain: true });
    let _ = mux.drain(2 * MS, &mut out);
    assert_eq!(out.text(), "aA\n[b] one\n");
}

#[test]
fn an_idle_open_line_is_broken_and_continued() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    for byte in b"# " {
        let _ = mux.push_through(ids[0], *byte, &mut out);
    }
    let _ = mux.drain(0, &mut out);
    say(&mut mux, ids[1], "news\r\n");
    assert_eq!(mux.drain(50 * MS, &mut out).next_deadline, Some(IDLE_NS));
    let _ = mux.drain(IDLE_NS, &mut out);
    assert_eq!(out.text(), "# \r\n[b] news\r\n");
    // The focus goes on with its continuation, then raw.
    assert_eq!(mux.push_through(ids[0], b'l', &mut out), Pushed::Queued { drain: true });
    let _ = mux.drain(IDLE_NS, &mut out);
    for byte in b"s\nx" {
        assert_eq!(mux.push_through(ids[0], *byte, &mut out), Pushed::Sent);
    }
    assert_eq!(out.text(), "[a]+ ls\nx");
}

#[test]
fn nobody_waits_longer_than_a_second_for_a_line_that_trickles() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    let _ = mux.push_through(ids[0], b'.', &mut out);
    let _ = mux.drain(0, &mut out);
    say(&mut mux, ids[1], "now\n");
    let mut now = 0;
    while !out.bytes.ends_with(b"now\n") {
        assert!(now <= WAIT_NS + 50 * MS);
        let _ = mux.push(ids[0], b'.');
        let _ = mux.drain(now, &mut out);
        now += 50 * MS;
    }
    assert!(now >= WAIT_NS);
}

#[test]
fn a_flood_without_line_ends_gives_way_and_vms_take_turns() {
    let (mut mux, ids) = mux(&["a", "b", "c"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[0], &"x".repeat(LINE_BYTES + 10));
    say(&mut mux, ids[1], "b1\nb2\n");
    say(&mut mux, ids[2], "c1\nc2\n");
    let _ = mux.drain(0, &mut out);
    let text = out.text();
    let lines: Vec<&str> = text.split('\n').collect();
    assert_eq!(lines[0], "x".repeat(LINE_BYTES) + "\r");
    assert_eq!(lines[1..], ["[b] b1", "[c] c1", &format!("[a]+ {}", "x".repeat(10))]);
    let _ = mux.drain(IDLE_NS, &mut out);
    assert_eq!(out.text(), "\r\n[b] b2\n[c] c2\n");
}

#[test]
fn a_full_ring_refuses_counts_as_ready_and_names_its_source_when_half_empty() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], &"x".repeat(SOURCE_BYTES));
    assert!(!mux.has_room(ids[1]));
    assert_eq!(mux.push(ids[1], b'y'), Pushed::Full);
    assert_eq!(mux.next_relieved(), None);
    out.room = SOURCE_BYTES / 2 + 3;
    let result = mux.drain(0, &mut out);
    assert!(result.uart_full && !result.relieved, "the prefix took 4 of the bytes");
    out.room = 1;
    assert!(mux.drain(0, &mut out).relieved);
    assert_eq!((mux.next_relieved(), mux.next_relieved()), (Some(ids[1]), None));
    out.room = usize::MAX;
    let _ = mux.drain(0, &mut out);
    assert_eq!(out.text(), format!("[b] {}", "x".repeat(SOURCE_BYTES)));
}

#[test]
fn merus_lines_come_first_whole_and_with_their_prefix() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "guest\n");
    assert!(mux.merus_line("vm b: started"));
    assert!(mux.merus_fmt(format_args!("two\nlines {}", 7)));
    assert!(mux.merus_line(""));
    assert!(mux.merus_line("end\n"));
    let _ = mux.drain(0, &mut out);
    assert_eq!(
        out.text(),
        "merus: vm b: started\r\nmerus: two\r\nmerus: lines 7\r\nmerus: \r\nmerus: end\r\n[b] guest\n"
    );
    // A prompt that is open gives way after 100 ms.
    let _ = mux.push_through(ids[0], b'$', &mut out);
    assert!(mux.merus_line("halt"));
    let deadline = mux.drain(IDLE_NS, &mut out).next_deadline.unwrap();
    assert_eq!(out.text(), "$");
    let _ = mux.drain(deadline, &mut out);
    assert_eq!(out.text(), "\r\nmerus: halt\r\n");
}

#[test]
#[cfg_attr(miri, ignore = "16 KiB byte by byte; rings are filled to their end by other tests")]
fn a_merus_line_that_does_not_fit_is_taken_back_whole_and_reported() {
    let (mut mux, _) = mux(&[]);
    let mut out = FakeUart::new();
    let line = "m".repeat(1000);
    let mut taken = 0;
    while mux.merus_line(&line) {
        taken += 1;
    }
    assert!(taken >= MERUS_BYTES / 1100);
    assert!(!mux.merus_line(&line));
    let _ = mux.drain(0, &mut out);
    assert_eq!(out.text(), format!("merus: {line}\r\n").repeat(taken));
    assert!(mux.merus_line("more"));
    assert!(mux.merus_line("and more"));
    let _ = mux.drain(0, &mut out);
    assert_eq!(out.text(), "merus: (2 messages did not fit)\r\nmerus: more\r\nmerus: and more\r\n");
}

#[test]
fn finish_prints_everything_without_waiting() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    let _ = mux.push_through(ids[0], b'#', &mut out);
    say(&mut mux, ids[1], "part");
    assert!(mux.merus_line("halt"));
    out.room = 1;
    while mux.finish(&mut out).uart_full {
        out.room = 1;
    }
    assert_eq!(out.text(), "#\r\nmerus: halt\r\n[b] part\r\n");
    out.room = 9;
    assert!(!mux.finish(&mut out).uart_full);
    assert_eq!(out.text(), "");
}

#[test]
fn nothing_overtakes_a_line_end_that_the_uart_has_not_taken() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    say(&mut mux, ids[1], "part");
    out.room = 8;
    assert!(mux.finish(&mut out).uart_full);
    out.room = usize::MAX;
    assert_eq!(mux.push_through(ids[0], b'x', &mut out), Pushed::Queued { drain: true });
    let _ = mux.drain(0, &mut out);
    assert_eq!(out.text(), "[b] part\r\nx");
}

#[test]
fn a_line_that_is_open_keeps_its_form_when_the_focus_moves() {
    let (mut mux, ids) = mux(&["a", "b"]);
    let mut out = FakeUart::new();
    let _ = mux.push_through(ids[0], b'a', &mut out);
    mux.set_focus(Some(ids[1]));
    for byte in b"A\n" {
        assert_eq!(mux.push_through(ids[0], *byte, &mut out), Pushed::Sent);
    }
    assert_eq!(mux.push_through(ids[1], b'b', &mut out), Pushed::Sent);
    assert_eq!(out.text(), "aA\nb");
}

#[test]
fn the_key_for_counters_names_the_focus() {
    let (mut mux, ids) = mux(&["a", "b"]);
    assert_eq!([ESCAPE, b's'].map(|byte| mux.input(byte)), [InputAction::Swallowed, InputAction::Report(Some(ids[0]))]);
    assert_eq!(mux.input(b's'), InputAction::ToVm(ids[0], b's'), "without the escape it is the VM's");
    mux.set_focus(None);
    assert_eq!([ESCAPE, b's'].map(|byte| mux.input(byte)), [InputAction::Swallowed, InputAction::Report(None)]);
}

#[test]
fn keys_go_to_the_focus_and_the_escape_moves_it() {
    let (mut mux, ids) = mux(&["a", "b", "c"]);
    let mut out = FakeUart::new();
    let mut key = |byte| {
        let action = mux.input(byte);
        let _ = mux.drain(0, &mut out);
        (action, out.text())
    };
    assert_eq!(key(b'x').0, InputAction::ToVm(ids[0], b'x'));
    let steps: [(u8, Option<usize>); 8] = [
        (b'n', Some(1)),
        (b'3', Some(2)),
        (b'n', Some(0)),
        (b'p', Some(2)),
        (b'p', Some(1)),
        (b'0', None),
        (b'p', Some(2)),
        (b'1', Some(0)),
    ];
    for (byte, focus) in steps {
        assert_eq!(key(ESCAPE).0, InputAction::Swallowed);
        let (action, text) = key(byte);
        assert_eq!(action, InputAction::FocusChanged(focus.map(|i| ids[i])));
        let name = focus.map_or(String::from("no VM"), |i| format!("[{}]", ["a", "b", "c"][i]));
        assert_eq!(text, format!("merus: console: {name} has the focus\r\n"));
    }
    for byte in [b'9', b'q'] {
        assert_eq!((key(ESCAPE).0, key(byte)), (InputAction::Swallowed, (InputAction::Swallowed, String::new())));
    }
    assert_eq!((key(ESCAPE).0, key(ESCAPE).0), (InputAction::Swallowed, InputAction::ToVm(ids[0], ESCAPE)));
    assert_eq!(key(b'n').0, InputAction::ToVm(ids[0], b'n'), "the escape is over");
    let _ = key(ESCAPE).0;
    assert!(key(b'?').1.starts_with("merus: console: after Ctrl-]"));
}

#[test]
fn without_a_vm_input_and_commands_do_nothing() {
    let (mut mux, _) = mux(&[]);
    for byte in [b'x', ESCAPE, b'n', ESCAPE, b'p', ESCAPE, b'1', b'y'] {
        assert_eq!(mux.input(byte), InputAction::Swallowed);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The source writes this many bytes, each a line end with a chance of 1 in 8; straight or by its ring.
    Write(usize, Vec<u8>, bool),
    Merus(u8),
    Drain(u64, usize),
    Focus(Option<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..3, prop::collection::vec(0u8..24, 1..30), any::<bool>()).prop_map(|(s, b, d)| Step::Write(s, b, d)),
        1 => (0usize..3, Just(vec![1u8; 700]), any::<bool>()).prop_map(|(s, b, d)| Step::Write(s, b, d)),
        1 => (0u8..9).prop_map(Step::Merus),
        6 => (0u64..150, 0usize..60).prop_map(|(ms, room)| Step::Drain(ms * MS, room)),
        1 => prop::option::of(0usize..3).prop_map(Step::Focus),
    ];
    prop::collection::vec(step, 1..if cfg!(miri) { 8 } else { 120 })
}

/// Takes the output apart: what each of three VMs (of letters a, b, c) and Merus said. Panics where a line mixes them.
fn take_apart(output: &[u8], focus_moves: bool) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut vms, mut merus, mut broken) = (vec![Vec::new(); 3], Vec::new(), [false; 3]);
    for line in output.split_inclusive(|b| *b == b'\n') {
        let text = core::str::from_utf8(line).unwrap();
        if let Some(own) = text.strip_prefix("merus: ") {
            merus.push(String::from(own.strip_suffix("\r\n").expect("a whole line")));
            continue;
        }
        let named = text.strip_prefix('[').map(|t| (usize::from(t.as_bytes()[0] - b'a'), t.as_bytes()[2] == b'+'));
        let body = match named {
            Some((_, continued)) => &text[if continued { 5 } else { 4 }..],
            None => text,
        };
        // The guests of the test write no `\r`: it is the console's own break.
        let (body, breaks) = match body.strip_suffix("\r\n") {
            Some(part) => (part, true),
            None => (body, false),
        };
        let letters: Vec<usize> = body.bytes().filter(|b| *b != b'\n').map(|b| usize::from(b - b'a')).collect();
        let Some(vm) = named.map(|n| n.0).or(letters.first().copied()) else {
            // A raw empty line: the focus's, which is always the first VM where the test asks for the exact bytes.
            assert!(!breaks);
            if !focus_moves {
                vms[0].push(b'\n');
            }
            continue;
        };
        assert!(letters.iter().all(|l| *l == vm), "a line mixes sources: {text:?}");
        assert_eq!(
            named.is_some_and(|n| n.1),
            broken[vm],
            "a continuation follows a break, and nothing else: {text:?}"
        );
        assert!(named.is_some() || focus_moves || vm == 0, "no prefix: {text:?}");
        broken[vm] = breaks;
        vms[vm].extend_from_slice(body.as_bytes());
    }
    (vms, merus)
}

fn run(steps: Vec<Step>, focus_moves: bool) {
    let (mut mux, ids) = mux(&["a", "b", "c"]);
    let mut out = FakeUart { bytes: Vec::new(), room: 0 };
    let (mut said, mut own, mut now) = (vec![Vec::new(); 3], Vec::new(), 0);
    // What the VM's UART holds back, as its FIFO does.
    let mut held: Vec<VecDeque<u8>> = vec![VecDeque::new(); 3];
    for step in steps {
        match step {
            Step::Write(vm, bytes, straight) => {
                for byte in bytes {
                    let byte = if byte < 3 { b'\n' } else { b'a' + vm as u8 };
                    said[vm].push(byte);
                    held[vm].push_back(byte);
                }
                while let Some(byte) = held[vm].pop_front() {
                    let pushed =
                        if straight { mux.push_through(ids[vm], byte, &mut out) } else { mux.push(ids[vm], byte) };
                    if pushed == Pushed::Full {
                        held[vm].push_front(byte);
                        break;
                    }
                }
            }
            Step::Merus(n) => {
                let line = format!("line {n}");
                if mux.merus_line(&line) {
                    own.push(line);
                }
            }
            Step::Drain(passed, room) => {
                now += passed;
                out.room = room * 8;
                let result = mux.drain(now, &mut out);
                if let Some(deadline) = result.next_deadline {
                    assert!(deadline > now);
                }
                while let Some(source) = mux.next_relieved() {
                    let vm = source.index();
                    while let Some(byte) = held[vm].pop_front() {
                        if mux.push(source, byte) == Pushed::Full {
                            held[vm].push_front(byte);
                            break;
                        }
                    }
                }
            }
            Step::Focus(vm) if focus_moves => mux.set_focus(vm.map(|v| ids[v])),
            Step::Focus(_) => {}
        }
    }
    // At the end everything comes out by itself, each deadline a step.
    out.room = usize::MAX;
    for _ in 0..200 {
        let result = mux.drain(now, &mut out);
        while let Some(source) = mux.next_relieved() {
            while let Some(byte) = held[source.index()].pop_front() {
                if mux.push(source, byte) == Pushed::Full {
                    held[source.index()].push_front(byte);
                    break;
                }
            }
        }
        now = result.next_deadline.unwrap_or(now + IDLE_NS);
    }
    let (mut vms, merus) = take_apart(&out.bytes, focus_moves);
    if focus_moves {
        // Raw empty lines tell no source.
        for text in said.iter_mut().chain(&mut vms) {
            text.retain(|b| *b != b'\n');
        }
    }
    for vm in 0..3 {
        assert_eq!(String::from_utf8_lossy(&vms[vm]), String::from_utf8_lossy(&said[vm]), "vm {vm}");
    }
    assert_eq!(merus, own);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 100 }))]

    #[test]
    fn each_source_s_bytes_come_out_whole_and_in_order(steps in steps()) {
        run(steps, false);
    }

    #[test]
    fn also_while_the_focus_moves(steps in steps()) {
        run(steps, true);
    }

    #[test]
    fn a_ring_is_a_bounded_queue(capacity in 0usize..70, steps in prop::collection::vec(prop::option::of(any::<u8>()), 0..if cfg!(miri) { 40 } else { 300 })) {
        let mut ring = Ring::new(capacity);
        let mut queue = VecDeque::new();
        prop_assert!(ring.capacity() >= capacity && ring.capacity().is_power_of_two());
        for step in steps {
            match step {
                Some(byte) => {
                    let fits = queue.len() < ring.capacity();
                    prop_assert_eq!(ring.push(byte), fits);
                    if fits {
                        queue.push_back(byte);
                    }
                }
                None => {
                    prop_assert_eq!(ring.first(), queue.front().copied());
                    prop_assert_eq!(ring.pop(), queue.pop_front());
                }
            }
            prop_assert_eq!((ring.len(), ring.is_empty(), ring.is_full()), (queue.len(), queue.is_empty(), queue.len() == ring.capacity()));
        }
    }
}
