//! Packing and unpacking of a stream's frames, in order.

mod messages;

use bytes::Bytes;
use messages::{encode, message, put_row};
use proptest::prelude::*;
use trem_wire::codec::{encode_run, Operation};
use trem_wire::compress::{Compression, Packer, Unpacker};

fn pack_all(compression: Compression, frames: &[Vec<u8>]) -> Vec<Bytes> {
    let mut packer = Packer::new(compression).expect("memory for the packer");
    let pack = |frame: &Vec<u8>| {
        let mut out = Vec::new();
        packer.pack(frame, &mut out).expect("memory to pack");
        Bytes::from(out)
    };
    frames.iter().map(pack).collect()
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(message(), 0..6)
        .prop_map(|messages| messages.iter().flat_map(encode).collect())
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::Zstd), Just(Compression::None)]
}

proptest! {
    #[test]
    fn each_frame_is_unpacked_as_soon_as_it_arrives(
        compression in compression(),
        frames in prop::collection::vec(frame(), 1..8),
    ) {
        let mut unpacker = Unpacker::new().expect("memory for the unpacker");
        for (packed, frame) in pack_all(compression, &frames).iter().zip(&frames) {
            prop_assert_eq!(&unpacker.unpack(packed).expect("a frame of ours")[..], &frame[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut unpacker = Unpacker::new().expect("memory for the unpacker");
        let _ = unpacker.unpack(&bytes);
    }

    #[test]
    fn a_truncated_frame_is_an_error(frame in frame()) {
        let packed = &pack_all(Compression::Zstd, &[frame])[0];
        for length in 0..packed.len() {
            let mut unpacker = Unpacker::new().expect("memory for the unpacker");
            prop_assert!(unpacker.unpack(&packed.slice(..length)).is_err(), "cut at {}", length);
        }
    }
}

/// A frame with one run of inserts, each row a value.
fn inserts(values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let (mut rows, mut count) = (Vec::new(), 0);
    for value in values {
        put_row(&mut rows, &vec![Some(value)]);
        count += 1;
    }
    let mut frame = Vec::new();
    encode_run(&mut frame, Operation::Insert, 16_384, count, &rows);
    frame
}

fn noise(n: u32) -> Vec<u8> {
    let n = u128::from(n);
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C63_5DE8_AB1D) >> 32).to_le_bytes()[..12].into()
}

#[test]
fn a_frame_that_repeats_an_earlier_one_takes_few_bytes() {
    let frame = inserts((0..500).map(noise));
    let packed = pack_all(Compression::Zstd, &[frame.clone(), frame.clone()]);
    assert!(packed[1].len() * 20 < frame.len(), "{} of {}", packed[1].len(), frame.len());
}

#[test]
fn a_frame_larger_than_the_window_comes_through() {
    let row = |length: u32| (0..length).map(|n| (n / 7) as u8).collect();
    let frames = [row(3_000_000), row(10), row(500_000)].map(|row| inserts(std::iter::once(row)));
    let packed = pack_all(Compression::Zstd, &frames);
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    for (packed, frame) in packed.iter().zip(&frames) {
        assert_eq!(unpacker.unpack(packed).expect("a frame of ours"), frame);
    }
}

#[test]
fn frames_of_a_stream_cannot_be_left_out() {
    let frames: Vec<Vec<u8>> = (0..3).map(|n| inserts((n..n + 90).map(noise))).collect();
    let packed = pack_all(Compression::Zstd, &frames);
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    unpacker.unpack(&packed[0]).expect("a frame of ours");
    let skipped = unpacker.unpack(&packed[2]);
    assert_ne!(skipped.ok().as_deref(), Some(&frames[1][..]));
}

#[test]
fn a_frame_that_claims_more_than_any_row_is_refused() {
    let bytes = Bytes::from_static(&[1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0]);
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    assert!(unpacker.unpack(&bytes).is_err());
}

#[test]
fn what_is_not_a_frame_is_not_packed() {
    let mut packer = Packer::new(Compression::Zstd).expect("memory for the packer");
    assert!(packer.pack(b"Z", &mut Vec::new()).is_err());
}

/// Protocol version 1. What zstd makes of a frame may differ between its releases, so there the
/// bytes are only read.
#[test]
fn version_1_keeps_its_bytes() {
    let small = inserts(std::iter::once(b"abc".to_vec()));
    let packed = |compression| pack_all(compression, std::slice::from_ref(&small))[0].clone();
    assert_eq!(packed(Compression::None), b"\0I\x80\x80\x01\x01\x09\0\x01\0\0\0\x03abc"[..]);
    assert_eq!(packed(Compression::Zstd), b"\x02\x0fi\x80\x80\x01\x01\x01\x08\x03abc"[..]);

    let frame = inserts((0..9).map(noise));
    let golden = Bytes::from_static(
        b"\x01u(\xb5/\xfd\08\x8c\x03\0\xa4\x06\x0fi\x80\x80\x01\t\x01\x08\x0c\0c\
          \x0c\x9c\xf3\x15|J\x7f\xb9y7\x9e\xc6\x188\xe7+\xf8\x94\xfer\xf3n<*%\xd4\
          \xdaAt\xdf},m\xa6\xda\x8d1p\xceW\xf0)\xfd\xe5\xe6\xddx\xf0=\x0c\xc2mlt|\
          \x9f`\x15\x17TJ\xa8\xb5\x83\xe8\xbe\xfbX\xdaL\xb5\xb7VD\xa9\x99d\t{\x12T\
          \x84S\x1ac\xe0\x9c\xaf\xe0S\xfa\xcb\xcd\xbb\xf1\x01\0\x06@\x02",
    );
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    assert_eq!(unpacker.unpack(&golden).expect("a frame of version 1"), frame);
}
