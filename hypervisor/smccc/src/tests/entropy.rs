//! The generator: against the plain cipher, and that no two streams are one.
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use std::{format, vec::Vec};

use crate::entropy::{Drbg, Entropy};

const SEED: [u8; 32] = [0x5a; 32];

fn draw(drbg: &mut Drbg, count: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; count];
    drbg.draw(&mut bytes);
    bytes
}

/// One step of the cipher as the module describes it: the next key and the 224 bytes that follow.
fn step(key: [u8; 32]) -> ([u8; 32], [u8; 224]) {
    let mut stream = ChaCha20Rng::from_seed(key);
    let (mut next, mut pool) = ([0; 32], [0; 224]);
    stream.fill_bytes(&mut next);
    stream.fill_bytes(&mut pool);
    (next, pool)
}

#[test]
fn it_is_chacha20_with_the_key_erased_at_each_refill() {
    let (key, _) = step(SEED);
    let mut length = key;
    length[0] ^= 32;
    let (key, _) = step(length);
    let (key, first) = step(key);
    let (_, second) = step(key);
    let expected: Vec<u8> = first.into_iter().chain(second).collect();
    // In one go and in pieces.
    assert_eq!(draw(&mut Drbg::from_seed(&SEED).unwrap(), 448), expected);
    let mut drbg = Drbg::from_seed(&SEED).unwrap();
    let pieces: Vec<u8> = [1, 0, 222, 2, 7, 216].iter().flat_map(|n| draw(&mut drbg, *n)).collect();
    assert_eq!(pieces, expected);
}

#[test]
fn seeds_that_differ_give_streams_that_differ() {
    let long: Vec<u8> = (0..100).collect();
    let mut seeds: Vec<Vec<u8>> = (16..100).map(|n| long[..n].to_vec()).collect();
    // Zeros behind a seed, and each byte of a long one, count.
    seeds.extend((16..40).map(|n| std::vec![0; n]));
    seeds.extend((0..100).map(|at| {
        let mut seed = long.clone();
        seed[at] ^= 1;
        seed
    }));
    if cfg!(miri) {
        seeds = seeds.into_iter().step_by(60).collect();
    }
    let mut streams: Vec<_> = seeds.iter().map(|s| draw(&mut Drbg::from_seed(s).unwrap(), 16)).collect();
    streams.sort();
    streams.dedup();
    assert_eq!(streams.len(), seeds.len());
}

#[test]
fn a_short_seed_is_refused() {
    assert!(Drbg::from_seed(&[1; 15]).is_none() && Drbg::from_seed(&[]).is_none());
    assert!(Drbg::from_seed(&[1; 16]).is_some());
}

#[test]
fn children_and_reseeding_part_the_streams() {
    let mut parent = Drbg::from_seed(&SEED).unwrap();
    let (mut a, mut b) = (parent.child(), parent.child());
    let mut reseeded = Drbg::from_seed(&SEED).unwrap();
    draw(&mut reseeded, 64);
    reseeded.reseed(b"more");
    let mut streams = [&mut a, &mut b, &mut parent, &mut reseeded].map(|d| draw(d, 32)).to_vec();
    streams.push(draw(&mut Drbg::from_seed(&SEED).unwrap(), 32));
    streams.sort();
    streams.dedup();
    assert_eq!(streams.len(), 5);
}

#[test]
fn numbers_and_the_trait_draw_from_the_same_stream() {
    let bytes = draw(&mut Drbg::from_seed(&SEED).unwrap(), 16);
    let mut drbg = Drbg::from_seed(&SEED).unwrap();
    assert_eq!(drbg.next_u64().to_le_bytes(), bytes[..8]);
    let mut rest = [0; 8];
    assert!(drbg.fill(&mut rest));
    assert_eq!(rest, bytes[8..]);
    assert_eq!(format!("{drbg:?}"), "Drbg");
}

#[test]
fn what_was_handed_out_is_wiped() {
    let mut drbg = Drbg::from_seed(&SEED).unwrap();
    let drawn = draw(&mut drbg, 100);
    assert_eq!(drbg.pool()[..100], [0; 100]);
    assert!(drbg.pool()[100..].iter().any(|b| *b != 0) && drawn.iter().any(|b| *b != 0));
    drbg.reseed(b"new");
    assert!(drbg.pool().iter().all(|b| *b == 0));
}
