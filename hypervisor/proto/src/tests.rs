use crate::frame::encode_as;
use crate::*;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn frames(bytes: &[u8]) -> Vec<Result<Envelope, FrameError>> {
    let mut decoder = Decoder::new();
    bytes.iter().filter_map(|b| decoder.push(*b)).collect()
}

fn chunk(bytes: Vec<u8>) -> Call {
    Call::Chunk { hash: Hash([7; 32]), offset: 1 << 40, bytes: Bytes(bytes) }
}

#[test]
fn what_is_sent_arrives() {
    let calls =
        [Call::Machine, Call::Info { vm: "web".into() }, chunk(vec![0; MAX_CHUNK]), chunk(vec![255; MAX_CHUNK])];
    let mut stream = Vec::new();
    for (id, call) in (1..).zip(&calls) {
        encode(id, call, &mut stream).unwrap();
    }
    let got: Vec<(u32, Call)> =
        frames(&stream).into_iter().map(|f| f.unwrap()).map(|f| (f.id, f.decode().unwrap())).collect();
    assert_eq!(got, (1..).zip(calls).collect::<Vec<_>>());
}

#[test]
fn the_largest_message_fits_and_one_more_byte_does_not() {
    let mut stream = Vec::new();
    // A byte sequence costs two bytes of length at this size.
    let most = Bytes(vec![0x5a; MAX_MESSAGE - 2]);
    encode(1, &most, &mut stream).unwrap();
    assert!(stream.len() - 2 <= MAX_FRAME);
    assert_eq!(frames(&stream)[0].clone().unwrap().decode::<Bytes>().unwrap(), most);
    assert_eq!(encode(1, &Bytes(vec![0x5a; MAX_MESSAGE - 1]), &mut Vec::new()), Err(EncodeError::TooLong));
}

#[test]
fn another_version_is_told_apart_from_noise() {
    let mut stream = Vec::new();
    encode_as(VERSION + 1, 9, &Call::Machine, &mut stream).unwrap();
    let frame = frames(&stream).remove(0).unwrap();
    assert_eq!(frame.id, 9);
    assert_eq!(frame.decode::<Call>(), Err(FrameError::Version { theirs: VERSION + 1 }));
}

/// One of each that is sent in rows, no two fields alike.
fn rows() -> Vec<Reply> {
    fn page<T>(rows: Vec<T>) -> Page<T> {
        Page { rows, next: 300, more: true, lost: 7 }
    }
    let exits = |reason: &str| vec![ExitRow { reason: reason.into(), count: 1 << 40, ticks: vec![1, 2, 3] }];
    #[rustfmt::skip]
    let vm = VmRow {
        name: "web".into(), number: 1, group: Some("g".into()), state: VmState::Stopped(StopKind::Failed), vcpus: 2, memory: 3,
        memory_used: 4, memory_max: Some(5), weight: 6, cpu_max: Some((7, 8)), class: "fair".into(), ran_ns: 9, waited_ns: 10,
        throttled_ns: 11, exits: 12, resets: 13, console: 14, devices: 15,
    };
    #[rustfmt::skip]
    let answers = vec![
        Answer::Machine(MachineRow {
            merus: "0".into(), board: "b".into(), pcpus: 1, memory: 2, memory_free: 3, heap: 4, now_ns: 5, counter_hz: 6, tracing: true, vhe: true,
            line_rate: 7, bad_frames: 8,
        }),
        Answer::List(page(vec![vm.clone()])),
        Answer::Info(vm),
        Answer::Vcpus(page(vec![VcpuRow {
            index: 1, state: VcpuState::Stopped, pcpu: 2, ran_ns: 3, waited_ns: 4, blocked_ns: 5, throttled_ns: 6, wake_max_ns: 7,
            switches: 8, moves: 9, interrupts: 10, exits: exits("wfi"), spans: exits("guest"),
        }])),
        Answer::Devices(page(vec![DeviceRow {
            name: "net0".into(),
            what: "lan".into(),
            counts: DeviceCounts {
                reads: 1, read_bytes: 2, writes: 3, written_bytes: 4, others: 5, errors: 6, lost: [7, 8, 9, 10, 11, 12, 13, 14], depth: 15,
                deepest: 16,
            },
        }])),
        Answer::Switches(page(vec![
            SwitchRow { name: "lan".into(), ports: 1, learned: 2, uplink: Some(DeviceCounts { depth: 3, ..DeviceCounts::default() }) },
            SwitchRow { name: "own".into(), ports: 4, learned: 0, uplink: None },
        ])),
        Answer::Pcpus(page(vec![PcpuRow {
            number: 1, mpidr: 2, running: Some(("web".into(), 3)), ready: 4, busy_ns: 5, steals: 6,
        }])),
        Answer::Groups(page(vec![GroupRow {
            name: "g".into(), weight: 1, cpu_max: None, memory_max: Some(2), memory_used: 3, vms: 4,
        }])),
        Answer::Objects(page(vec![ObjectRow {
            name: "o".into(), hash: Some(Hash([9; 32])), size: 1, there: 2, boot: true, users: 3,
        }])),
        Answer::Uploaded(1),
        Answer::Console(ConsolePart { from: 1, bytes: Bytes(vec![2, 3]), live: true }),
        Answer::Typed(1),
        Answer::Events(page(vec![
            EventRow { number: 1, at_ns: 2, vm: "web".into(), kind: EventKind::Set { key: "k".into(), value: "v".into() } },
            EventRow { number: 2, at_ns: 3, vm: "web".into(), kind: EventKind::Making },
            EventRow { number: 3, at_ns: 4, vm: "web".into(), kind: EventKind::Detached("rng".into()) },
        ])),
        Answer::Log(page(vec![LogRow { number: 1, at_ns: 2, text: "t".into() }])),
        Answer::Trace(page(vec![TraceRow { tick: 1, kind: 2, which: 3, vm: 4, vcpu: 5, argument: 6 }])),
    ];
    let refusals = [Refusal::Version { ours: 5 }, Refusal::Malformed("m".into()), Refusal::NoSuchPcpu(4)];
    answers.into_iter().map(Ok).chain(refusals.map(Err)).collect()
}

/// A row with another field, or a variant in another place, is another version: a program of before would read one thing for another.
#[test]
fn the_messages_of_this_version_have_these_bytes() {
    let calls = [
        Call::Create(NewVm {
            name: "web".into(),
            group: None,
            kernel: Payload::Boot("k".into()),
            initrd: Some(Payload::Object(Hash([8; 32]))),
            cmdline: Some("c".into()),
            memory: 1,
            vcpus: 2,
            settings: "s".into(),
        }),
        Call::Set { target: Target::Group("g".into()), key: "k".into(), value: "v".into() },
        chunk(vec![1, 2, 3]),
        Call::SetTrace { on: true },
        Call::Detach { vm: "web".into(), device: "disk0".into() },
        Call::Switches { from: 3 },
    ];
    let mut stream = Vec::new();
    calls.iter().for_each(|call| encode(0, call, &mut stream).unwrap());
    rows().iter().for_each(|reply| encode(0, reply, &mut stream).unwrap());
    let messages: Vec<u8> = frames(&stream).into_iter().flat_map(|frame| frame.unwrap().message).collect();
    assert_eq!(
        (VERSION, messages.len(), crc32fast::hash(&messages)),
        (5, 484, 337_210_522),
        "raise VERSION with what changes them"
    );
}

#[test]
fn bytes_behind_a_message_are_not_passed_over() {
    let mut stream = Vec::new();
    encode(1, &(Call::Machine, 5_u8), &mut stream).unwrap();
    assert_eq!(frames(&stream)[0].clone().unwrap().decode::<Call>(), Err(FrameError::Message));
}

#[test]
fn what_has_no_end_is_given_up_once_and_the_next_frame_is_found() {
    let mut stream = vec![1; 3 * MAX_FRAME];
    encode(4, &Call::Machine, &mut stream).unwrap();
    let got = frames(&stream);
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], Err(FrameError::TooLong));
    assert_eq!(got[1].as_ref().unwrap().id, 4);
}

#[test]
fn refusals_say_what_to_do() {
    assert_eq!(Refusal::NoSuchVm("web".into()).to_string(), "there is no VM \"web\"; `list` names them");
    assert_eq!(Refusal::State { is: VmState::Stopped(StopKind::Killed) }.to_string(), "the VM is stopped (killed)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 256 }, ..ProptestConfig::default() })]

    /// Whatever comes before a frame, the frame is found; and noise alone is never taken for one.
    #[test]
    fn noise_costs_no_frame(noise in proptest::collection::vec(any::<u8>(), 0..300), payload in proptest::collection::vec(any::<u8>(), 0..600)) {
        let call = chunk(payload);
        let mut stream = noise;
        encode(3, &call, &mut stream).unwrap();
        let got = frames(&stream);
        prop_assert_eq!(got.last().unwrap().as_ref().unwrap().decode::<Call>().unwrap(), call);
        prop_assert_eq!(got.iter().filter(|f| f.is_ok()).count(), 1);
    }

    /// A frame with one byte changed is refused, or (a byte became the zero that ends frames) falls apart into refused ones.
    #[test]
    fn damage_is_found(at in any::<prop::sample::Index>(), to in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 1..300)) {
        let mut stream = Vec::new();
        encode(3, &chunk(payload), &mut stream).unwrap();
        let inner = at.index(stream.len() - 2) + 1;
        prop_assume!(stream[inner] != to);
        stream[inner] = to;
        prop_assert!(frames(&stream).iter().all(|f| f.is_err()));
    }

    /// No message makes the decoder panic, or take more memory than the message has bytes.
    #[test]
    fn any_message_is_decoded_or_refused(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let frame = Envelope { version: VERSION, id: 0, message };
        let _ = frame.decode::<Call>();
        let _ = frame.decode::<Reply>();
    }
}
