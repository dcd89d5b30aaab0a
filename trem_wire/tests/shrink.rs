//! The small form of frames: what was shrunk comes back byte by byte, whatever bytes arrive are
//! refused or read but never panic nor grow without bound, and version 1 keeps its bytes.

mod messages;

use bytes::Bytes;
use messages::{encode, message, put_row, put_update, Fields, Update};
use proptest::prelude::*;
use trem_wire::codec::{encode_begin, encode_commit, encode_run, Operation};
use trem_wire::message::{Begin, Commit};
use trem_wire::shrink::{Expander, Shrinker};
use trem_wire::Lsn;

/// No frame that was taken apart is longer.
const LARGEST: usize = 256 * 1024;

fn shrink_all(frames: &[Vec<u8>]) -> Vec<Bytes> {
    let mut shrinker = Shrinker::default();
    let shrink = |frame: &Vec<u8>| {
        let mut out = Vec::new();
        shrinker.shrink(frame, &mut out).expect("a frame");
        Bytes::from(out)
    };
    frames.iter().map(shrink).collect()
}

/// How the values of a column follow each other, as those of tables do.
#[derive(Clone, Debug)]
enum Kind {
    /// Numbers of so many bytes: the first, the usual difference.
    Number(usize, u64, u64),
    /// A text around a number, NULL every so often.
    Text(usize, u32, u32),
    Noise(usize),
    Same(Option<Vec<u8>>),
}

impl Kind {
    fn value(&self, row: u32, noise: u64) -> Option<Vec<u8>> {
        match self {
            Kind::Number(width, first, step) => {
                let jump = if noise.is_multiple_of(7) { noise } else { 0 };
                let value = first.wrapping_add(step.wrapping_mul(row.into())).wrapping_add(jump);
                Some(value.to_be_bytes()[8 - width..].to_vec())
            }
            Kind::Text(length, first, nulls) => {
                let text = format!("{:>1$} of this shop", first.wrapping_add(row), length);
                (row % (nulls + 1) != *nulls).then(|| text.into_bytes())
            }
            Kind::Noise(length) => {
                Some(noise.to_le_bytes().repeat(length / 8 + 1)[..*length].into())
            }
            Kind::Same(value) => value.clone(),
        }
    }
}

fn kind() -> impl Strategy<Value = Kind> {
    let width = prop::sample::select(vec![2_usize, 4, 8]);
    let first = prop_oneof![0..100_u64, any::<u64>()];
    prop_oneof![
        (width, first.clone(), first)
            .prop_map(|(width, first, step)| { Kind::Number(width, first, step) }),
        (0..70_usize, any::<u32>(), 0..9_u32).prop_map(|(l, first, n)| Kind::Text(l, first, n)),
        (0..150_usize).prop_map(Kind::Noise),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..140)).prop_map(Kind::Same),
    ]
}

/// How many rows each frame has, and of what: all of one table.
#[derive(Clone, Debug)]
struct Stream {
    columns: Vec<Kind>,
    frames: Vec<(u32, Operation)>,
    noise: u64,
}

fn stream() -> impl Strategy<Value = Stream> {
    let operation =
        prop_oneof![Just(Operation::Insert), Just(Operation::Update), Just(Operation::Delete)];
    let frames = prop::collection::vec((prop_oneof![Just(1), 1..60_u32], operation), 1..8);
    (prop::collection::vec(kind(), 0..6), frames, any::<u64>())
        .prop_map(|(columns, frames, noise)| Stream { columns, frames, noise })
}

impl Stream {
    fn encode(&self) -> Vec<Vec<u8>> {
        let (mut row, mut noise) = (0, self.noise);
        let mut next_row = || -> Fields {
            row += 1;
            let value = |kind: &Kind| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                kind.value(row, noise >> 11)
            };
            self.columns.iter().map(value).collect()
        };
        let frame = |&(count, operation): &(u32, Operation)| {
            let mut rows = Vec::new();
            for row in 0..count {
                let new = next_row();
                match operation {
                    Operation::Insert | Operation::Delete => put_row(&mut rows, &new),
                    Operation::Update => {
                        let unchanged = (row % 5 == 4).then(|| vec![row % 2 == 0; new.len()]);
                        let old = (row % 3 == 2).then(|| new.iter().take(1).cloned().collect());
                        put_update(&mut rows, &Update { old, new, unchanged, unknown: None });
                    }
                }
            }
            let mut frame = Vec::new();
            encode_run(&mut frame, operation, 16_384, count, &rows);
            frame
        };
        self.frames.iter().map(frame).collect()
    }
}

fn frame_of_anything() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(message(), 0..6)
        .prop_map(|messages| messages.iter().flat_map(encode).collect())
}

/// Frames with many kinds of columns, and between them others.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        stream().prop_map(|stream| stream.encode()),
        prop::collection::vec(frame_of_anything(), 1..6),
    ]
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were(frames in frames()) {
        let mut expander = Expander::default();
        for (shrunk, frame) in shrink_all(&frames).iter().zip(&frames) {
            let expanded = expander.expand(shrunk);
            prop_assert_eq!(expanded.as_deref(), Ok(&frame[..]));
        }
    }

    #[test]
    fn wrong_bytes_never_panic_and_stay_small(
        frames in frames(),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut expander = Expander::default();
        for shrunk in shrink_all(&frames) {
            let mut bytes = shrunk.to_vec();
            for (at, byte) in &wrong {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let as_it_is = bytes[0] == 0;
            if let Ok(expanded) = expander.expand(&bytes) {
                prop_assert!(as_it_is || expanded.len() <= LARGEST);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(frames in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..100), 1..4,
    )) {
        let mut expander = Expander::default();
        for frame in frames {
            let _ = expander.expand(&frame);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_truncation_is_an_error(frames in frames()) {
        let shrunk = shrink_all(&frames);
        let (last, before) = shrunk.split_last().expect("at least one frame");
        for length in 0..last.len() {
            let mut expander = Expander::default();
            before.iter().for_each(|frame| drop(expander.expand(frame).expect("a frame of ours")));
            prop_assert!(expander.expand(&last.slice(..length)).is_err(), "cut at {}", length);
        }
    }
}

/// 255,000 rows of ten NULLs would be 10 MB.
#[test]
fn few_bytes_do_not_become_many() {
    let mut control = b"i\x01\x98\xc8\x0f\x0a".to_vec();
    control.extend([0; 10]);
    let mut shrunk = vec![control.len() as u8];
    shrunk.extend(control);
    assert!(Expander::default().expand(&shrunk).is_err());
}

fn begin(xid: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let lsn = Lsn(0x16_B374_D848 + 256 * xid);
    encode_begin(&mut frame, &Begin { xid, commit_lsn: lsn, commit_timestamp: -5 });
    frame
}

fn golden_frame(xid: u64) -> Vec<u8> {
    let number = |n: u32| Some(n.to_be_bytes().to_vec());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let inserted: Vec<Fields> = (0..5)
        .map(|n| vec![number(n * n + xid as u32), None, text("a"), text(&format!("row {n}"))])
        .collect();
    let update = Update {
        old: Some(vec![number(7)]),
        new: vec![number(8), None, text("é"), text("changed")],
        unchanged: Some(vec![false, true, false, false]),
        unknown: None,
    };
    let mut frame = begin(xid);
    let mut rows = Vec::new();
    inserted.iter().for_each(|row| put_row(&mut rows, row));
    encode_run(&mut frame, Operation::Insert, 16_384, 5, &rows);
    rows.clear();
    put_update(&mut rows, &update);
    encode_run(&mut frame, Operation::Update, 16_384, 1, &rows);
    rows.clear();
    put_row(&mut rows, &vec![number(7)]);
    encode_run(&mut frame, Operation::Delete, 16_384, 1, &rows);
    encode_commit(&mut frame, &Commit { end_lsn: Lsn(0x16_B374_D878 + 256 * xid) });
    frame
}

/// The small form in protocol version 1. When this must change, so must `PROTO_VERSION`.
#[test]
fn version_1_keeps_its_bytes() {
    assert_eq!(trem_wire::PROTO_VERSION, 1);
    let frames = [300, 301, 302].map(golden_frame);
    let shrunk = shrink_all(&frames);
    let golden: [&[u8]; 3] = [
        b"\x41Bi\x80\x80\x01\x05\x04\x03\0\n\nu\x80\x80\x01\x01\x04\x01\x01\x03\x03\0\x02\x08\
          d\x80\x80\x01\x01\x01\x03C\
          \xd8\x04\x90\x91\xb0\xb7\xd6\x05\t\
          \xd8\x04\x02\x06\n\x0e\x01aaaaa\x05rrrrrooooowwwww     01234\
          \x03\x0e\x10\xad\xf1\x01\x07changed\x02\x0e\x60",
        b"\x41Bi\x80\x80\x01\x05\x04\x03\0\x01\nu\x80\x80\x01\x01\x04\x01\x01\x03\x03\0\x02\x01\
          d\x80\x80\x01\x01\x01\x03C\
          \x02\x80\x04\0\
          \x1d\x02\x06\n\x0e\x05rrrrrooooowwwww     01234\x03\0\0\0\x02\0\x60",
        b"\x04\
          \x02\x80\x04\0\
          \x1d\x02\x06\n\x0e\x05rrrrrooooowwwww     01234\x03\0\0\0\x02\0\x60",
    ];
    assert_eq!(shrunk, golden.map(Bytes::from_static));
    let mut expander = Expander::default();
    for (golden, frame) in golden.iter().zip(&frames) {
        assert_eq!(expander.expand(&Bytes::from_static(golden)).as_deref(), Ok(&frame[..]));
    }
}
