//! Tests of the crate as a guest sees it.
mod entropy;
mod power;

use addr::Ipa;
use proptest::prelude::*;

use crate::{
    Call, Env, Fast, Regs, Workaround,
    entropy::{Entropy, NoEntropy},
    fast, ids,
    psci::{Outcome, Psci},
    pv_time, trng,
};

const RAM: core::ops::Range<u64> = 0x4000_0000..0x5000_0000;

fn in_ram(at: Ipa) -> bool {
    RAM.contains(&at.as_u64())
}

/// Counts up, so that every byte says where it ended.
struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        for byte in bytes {
            self.0 += 1;
            *byte = self.0;
        }
        true
    }
}

/// The whole path of a call, as the kernel has it; `Err` is what a runner does beyond returning.
fn call(psci: &mut Psci, caller: usize, env: &Env, x0: u64, args: [u64; 6]) -> Result<Regs, Outcome> {
    match fast(x0, args[0], env) {
        Fast::Return(regs) => return Ok(regs),
        Fast::Forward(_) => return Ok([0; 4]),
        Fast::Stateful => {}
    }
    let call = Call::new(x0, args);
    if call.is_trng() {
        return Ok(trng::handle(&call, env, &mut Counting(0)));
    }
    if call.is_yield() {
        return Ok([0; 4]);
    }
    if call.is_pv_time() {
        return Ok(pv_time::handle(caller as u32, &call, env));
    }
    match psci.handle(caller, &call, in_ram) {
        Outcome::Return(regs) | Outcome::Start { result: regs, .. } => Ok(regs),
        other => Err(other),
    }
}

fn one_vcpu() -> Psci {
    Psci::new(&[0x8000_0000]).unwrap()
}

/// x0 of a call that returns, on a VM of one vCPU.
fn x0(env: &Env, function: u32, arg: u64) -> i64 {
    let regs = call(&mut one_vcpu(), 0, env, function.into(), [arg, 0, 0, 0, 0, 0]).expect("it returns");
    regs[0].cast_signed()
}

const EVERYTHING: Env = Env {
    workaround_1: Workaround::FirmwareHas,
    workaround_2: Workaround::NotNeeded,
    workaround_3: Workaround::FirmwareHas,
    trng: true,
    stolen_time: Some(RECORDS),
};
const RECORDS: Ipa = Ipa::new(0x90a_0000);

#[test]
fn versions_are_what_the_documents_say() {
    let env = Env::default();
    assert_eq!(x0(&env, 0x8000_0000, 0), 0x1_0002);
    assert_eq!(x0(&env, 0x8400_0000, 0), 0x1_0001);
    assert_eq!(x0(&env, 0x8400_0006, 0), 2);
    assert_eq!(x0(&EVERYTHING, 0x8400_0050, 0), 0x1_0000);
    // The identifier is w0: what is above it means nothing.
    assert_eq!(fast(0xdead_beef_8400_0000, 0, &env), Fast::Return([0x1_0001, 0, 0, 0]));
    assert_eq!(fast(0xdead_beef_8000_0000, 0, &env), Fast::Return([0x1_0002, 0, 0, 0]));
}

#[test]
fn a_status_reads_the_same_in_w0_and_x0() {
    for function in [0x8400_0010u32, 0xc400_0010, 0x8000_0002, 0xc000_0002, 0x8600_0002, 0, u32::MAX, 0xc500_0020] {
        assert_eq!(x0(&Env::default(), function, 0), -1, "{function:#x}");
    }
}

/// What the workaround calls say of themselves is what they then do.
#[test]
fn discovery_of_workarounds_agrees_with_the_calls() {
    for (function, with) in [
        (0x8000_8000u32, (|w| Env { workaround_1: w, ..Env::default() }) as fn(Workaround) -> Env),
        (0x8000_7fff, |w| Env { workaround_2: w, ..Env::default() }),
        (0x8000_3fff, |w| Env { workaround_3: w, ..Env::default() }),
    ] {
        for (workaround, discovered, outcome) in [
            (Workaround::FirmwareHas, 0, Fast::Forward(function)),
            (Workaround::NotNeeded, 1, Fast::Return([0; 4])),
            (Workaround::Unknown, -1, Fast::Return([u64::MAX, 0, 0, 0])),
        ] {
            let env = with(workaround);
            assert_eq!(x0(&env, ids::ARCH_FEATURES, function.into()), discovered, "{function:#x} {workaround:?}");
            assert_eq!(fast(function.into(), 1, &env), outcome);
            // The argument is w1.
            assert_eq!(x0(&env, ids::ARCH_FEATURES, u64::from(function) | 0xffff_ffff_0000_0000), discovered);
            // The others stay unknown.
            for other in [0x8000_8000u32, 0x8000_7fff, 0x8000_3fff].into_iter().filter(|o| *o != function) {
                assert_eq!(x0(&env, ids::ARCH_FEATURES, other.into()), -1);
            }
        }
    }
    assert_eq!(x0(&Env::default(), ids::ARCH_FEATURES, 0x8000_0000), 0);
    assert_eq!(x0(&Env::default(), ids::ARCH_FEATURES, 0x8000_0001), 0);
    assert_eq!(x0(&Env::default(), ids::ARCH_FEATURES, 0x8000_0002), -1, "no SoC identification");
}

/// The table in the crate's text, as a list.
const LISTED: [u32; 30] = [
    0x8000_0000,
    0x8000_0001,
    0x8000_8000,
    0x8000_7fff,
    0x8000_3fff,
    0x8400_0000,
    0x8400_0001,
    0xc400_0001,
    0x8400_0002,
    0x8400_0003,
    0xc400_0003,
    0x8400_0004,
    0xc400_0004,
    0x8400_0006,
    0x8400_0008,
    0x8400_0009,
    0x8400_000a,
    0x8400_0012,
    0xc400_0012,
    0x8400_0050,
    0x8400_0051,
    0x8400_0052,
    0x8400_0053,
    0xc400_0053,
    0xc500_0020,
    0xc500_0021,
    0x8600_0000,
    0x8600_0001,
    0x8600_ff01,
    0x8600_ff03,
];

/// All identifiers of the ranges that anything lives in; few of them under Miri, and all that exist.
fn interesting() -> impl Iterator<Item = u32> {
    let ranges = [0x8000_0000u32, 0x8400_0000, 0x8500_0000, 0x8600_0000].into_iter();
    let blocks = ranges.flat_map(|base| {
        (0..0x100).chain(0x3ff0..0x4000).chain(0x7ff0..0x8010).chain(0xff00..0x1_0000).map(move |n| base | n)
    });
    let all = blocks.flat_map(|f| [f, f | ids::SMC64]);
    all.step_by(if cfg!(miri) { 97 } else { 1 }).chain(LISTED)
}

/// Whether a call of `function` answers anything but NOT_SUPPORTED.
fn exists(function: u32) -> bool {
    // An argument for which each discovery call has a positive answer.
    let arg = match function {
        ids::TRNG_FEATURES => ids::TRNG_VERSION,
        ids::PV_TIME_FEATURES => ids::PV_TIME_ST,
        _ => ids::SMCCC_VERSION,
    };
    let answer = call(&mut one_vcpu(), 0, &EVERYTHING, function.into(), [arg.into(), 0, 0, 0, 0, 0]);
    answer.is_err() || answer.is_ok_and(|r| r[0] != u64::MAX)
}

/// PSCI_FEATURES and TRNG_FEATURES claim exactly what does not answer NOT_SUPPORTED when called.
#[test]
fn discovery_agrees_with_the_calls() {
    for function in interesting() {
        let claimed = x0(&EVERYTHING, ids::PSCI_FEATURES, function.into());
        let trng_claimed = x0(&EVERYTHING, ids::TRNG_FEATURES, function.into());
        assert!(matches!(claimed, 0 | -1) && matches!(trng_claimed, 0 | -1));
        let exists = exists(function);
        let bare = function & !ids::SMC64;
        if (0x8400_0000..0x8400_0050).contains(&bare) {
            assert_eq!(claimed == 0, exists, "{function:#x}");
        } else if (0x8400_0050..0x8400_0060).contains(&bare) {
            assert_eq!(trng_claimed == 0, exists, "{function:#x}");
        }
        if !(0x8400_0000..0x8400_0050).contains(&bare) && bare != 0x8000_0000 {
            assert_eq!(claimed, -1, "{function:#x}");
        }
    }
}

/// Nothing else is there.
#[test]
fn nothing_exists_that_the_table_does_not_list() {
    for function in interesting() {
        assert_eq!(exists(function), LISTED.contains(&function), "{function:#x}");
    }
}

#[test]
fn the_vendor_range_says_who_it_is() {
    let env = Env::default();
    // e9e84a8b-a15b-4f02-b37f-f2b05bda0d8f, byte 0 in the low bits of w0.
    let uid = [0x8b4a_e8e9, 0x024f_5ba1, 0xb0f2_7fb3, 0x8f0d_da5b];
    assert_eq!(fast(0x8600_ff01, 0, &env), Fast::Return(uid));
    assert_eq!(fast(0x8600_ff03, 0, &env), Fast::Return([1, 1, 0, 0]));
    assert_eq!(fast(0x8600_0000, 0, &env), Fast::Return([0b11, 0, 0, 0]));
}

fn draw(function: u32, bits: u64) -> Regs {
    trng::handle(&Call::new(function.into(), [bits, 0, 0, 0, 0, 0]), &EVERYTHING, &mut Counting(0))
}

#[test]
fn a_draw_fills_the_last_register_first() {
    assert_eq!(draw(ids::TRNG_RND_64, 192), [0, 0x1817_1615_1413_1211, 0x100f_0e0d_0c0b_0a09, 0x0807_0605_0403_0201]);
    assert_eq!(draw(ids::TRNG_RND, 96), [0, 0x0c0b_0a09, 0x0807_0605, 0x0403_0201]);
    // Bits that were not asked for are zero.
    assert_eq!(draw(ids::TRNG_RND_64, 65), [0, 0, 1, 0x0807_0605_0403_0201]);
    assert_eq!(draw(ids::TRNG_RND, 1), [0, 0, 0, 1]);
    assert_eq!(draw(ids::TRNG_RND, 33), [0, 0, 1, 0x0403_0201]);
    assert_eq!(draw(ids::TRNG_RND, 9), [0, 0, 0, 0x0001]);
}

#[test]
fn a_draw_has_limits() {
    const INVALID: Regs = [-2i64 as u64, 0, 0, 0];
    for (function, bits) in [(ids::TRNG_RND, 0), (ids::TRNG_RND, 97), (ids::TRNG_RND_64, 0), (ids::TRNG_RND_64, 193)] {
        assert_eq!(draw(function, bits), INVALID);
    }
    assert_eq!(draw(ids::TRNG_RND_64, u64::MAX), INVALID);
    // The 32-bit call sees w1 only.
    assert_eq!(draw(ids::TRNG_RND, 0x1_0000_0001), [0, 0, 0, 1]);
    assert_eq!(draw(ids::TRNG_RND_64, 0x1_0000_0001), INVALID);
}

#[test]
fn without_entropy_nothing_is_made_up() {
    let draw = Call::new(ids::TRNG_RND_64.into(), [192, 0, 0, 0, 0, 0]);
    assert_eq!(trng::handle(&draw, &EVERYTHING, &mut NoEntropy), [-3i64 as u64, 0, 0, 0]);
    for function in [0x8400_0050u32, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xc400_0053] {
        assert_eq!(x0(&Env::default(), function, 64), -1, "{function:#x}");
    }
}

/// As Linux looks for it: SMCCC_ARCH_FEATURES on PV_TIME_FEATURES, that on PV_TIME_ST, and then PV_TIME_ST on each CPU.
#[test]
fn stolen_time_is_found_where_a_vm_has_it() {
    for (function, arg) in
        [(ids::ARCH_FEATURES, 0xc500_0020u32), (0xc500_0020, 0xc500_0020), (0xc500_0020, 0xc500_0021)]
    {
        assert_eq!(x0(&EVERYTHING, function, arg.into()), 0, "{function:#x} {arg:#x}");
        assert_eq!(x0(&EVERYTHING, function, u64::from(arg) | 1 << 32), 0, "the argument is w1");
        assert_eq!(x0(&Env::default(), function, arg.into()), -1, "{function:#x} {arg:#x}");
    }
    // The call itself is none of the Arm architecture's, and others are none of this interface's.
    assert_eq!(x0(&EVERYTHING, ids::ARCH_FEATURES, 0xc500_0021), -1);
    for other in [0xc500_0022u32, 0x8500_0020, 0x8500_0021, 0x8000_0000, 0] {
        assert_eq!(x0(&EVERYTHING, 0xc500_0020, other.into()), -1, "{other:#x}");
    }
    assert_eq!(x0(&Env::default(), 0xc500_0021, 0), -1);
}

#[test]
fn each_vcpu_has_a_record_of_its_own() {
    let mut psci = one_vcpu();
    for caller in 0..64 {
        let regs = call(&mut psci, caller, &EVERYTHING, 0xc500_0021, [u64::MAX; 6]).unwrap();
        assert_eq!(regs, [0x90a_0000 + 64 * caller as u64, 0, 0, 0]);
        assert_eq!(pv_time::stolen_at(caller as u32), 64 * caller as u64 + 8);
    }
    for (vcpus, size) in [(1, 0x1000), (64, 0x1000), (65, 0x2000), (128, 0x2000)] {
        assert_eq!(pv_time::window(RECORDS, vcpus), addr::Span::new(RECORDS, size));
    }
    assert_eq!(pv_time::window(Ipa::new(u64::MAX - 0xfff), 65), None);
}

proptest! {
    /// Any registers in any order: an answer, never a panic, and arguments of 32-bit calls are w registers.
    #[test]
    fn every_call_has_an_answer(calls in prop::collection::vec(
        (any::<u64>(), prop::sample::select(interesting().collect::<std::vec::Vec<_>>()), any::<bool>(), any::<[u64; 6]>(), 0usize..70),
        1..40,
    )) {
        let mut psci = Psci::new(&[0, 1, 2, 0x100]).unwrap();
        let mut narrow = psci.clone();
        for (wild, known, use_known, args, caller) in calls {
            let x0 = if use_known { (wild & !0xffff_ffff) | u64::from(known) } else { wild };
            let answer = call(&mut psci, caller, &EVERYTHING, x0, args);
            if x0 & u64::from(ids::SMC64) == 0 {
                let cut = args.map(|a| a & 0xffff_ffff);
                prop_assert_eq!(answer, call(&mut narrow, caller, &EVERYTHING, x0, cut));
            } else {
                call(&mut narrow, caller, &EVERYTHING, x0, args).ok();
            }
        }
    }
}
