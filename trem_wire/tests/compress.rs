//! Packing and unpacking of a stream's frames, in order.

use bytes::Bytes;
use proptest::prelude::*;
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

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::Zstd), Just(Compression::None)]
}

proptest! {
    #[test]
    fn each_frame_is_unpacked_as_soon_as_it_arrives(
        compression in compression(),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..8),
    ) {
        let mut unpacker = Unpacker::new().expect("memory for the unpacker");
        for (packed, frame) in pack_all(compression, &frames).iter().zip(&frames) {
            prop_assert_eq!(&unpacker.unpack(packed).expect("a frame of ours")[..], &frame[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut unpacker = Unpacker::new().expect("memory for the unpacker");
        let _ = unpacker.unpack(&bytes.into());
    }

    #[test]
    fn a_truncated_frame_is_an_error(frame in prop::collection::vec(any::<u8>(), 1..300)) {
        let packed = &pack_all(Compression::Zstd, &[frame])[0];
        for length in 0..packed.len() {
            let mut unpacker = Unpacker::new().expect("memory for the unpacker");
            prop_assert!(unpacker.unpack(&packed.slice(..length)).is_err(), "cut at {}", length);
        }
    }
}

#[test]
fn a_frame_that_repeats_an_earlier_one_takes_few_bytes() {
    let frame: Vec<u8> =
        (0..2000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let packed = pack_all(Compression::Zstd, &[frame.clone(), frame.clone()]);
    assert!(packed[1].len() * 20 < frame.len(), "{} of {}", packed[1].len(), frame.len());
}

#[test]
fn a_frame_larger_than_the_window_comes_through() {
    let frame: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    let packed = pack_all(Compression::Zstd, std::slice::from_ref(&frame));
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    assert_eq!(unpacker.unpack(&packed[0]).expect("a frame of ours"), frame);
}

#[test]
fn frames_of_a_stream_cannot_be_left_out() {
    let frames: Vec<Vec<u8>> = (0..3_u8).map(|n| vec![n; 500]).collect();
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
