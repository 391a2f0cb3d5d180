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
