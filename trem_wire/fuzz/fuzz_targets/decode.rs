//! Fuzzes everything that reads bytes of a stream. The input is a few frames, each with its length
//! in two bytes before it: what one frame does to the memory of the stream, the next one meets.
//!
//! Nothing may panic. What a frame becomes when it is expanded is bounded, and a frame that decodes
//! comes through the packing unharmed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trem_wire::codec::decode_frame;
use trem_wire::compress::{Compression, Packer, Unpacker};
use trem_wire::message::Message;
use trem_wire::shrink::Expander;

const EXPANDED_BYTES_MAX: usize = 256 * 1024;

fn split_frame(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk()?;
    let length = usize::from(u16::from_le_bytes(*length));
    Some(rest.split_at(length.min(rest.len())))
}

fn read_rows(message: &Message) {
    match message {
        Message::Insert(run) | Message::Delete(run) => {
            run.rows().for_each(|row| assert_eq!(row.fields().count(), row.field_count()));
        }
        Message::Update(run) => {
            assert_eq!(run.updated_rows().count(), run.row_count as usize);
        }
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let mut unpacker = Unpacker::new().expect("memory for the unpacker");
    let mut repacked = Unpacker::new().expect("memory for the unpacker");
    let mut packer = Packer::new(Compression::Zstd).expect("memory for the packer");
    let mut expander = Expander::default();
    let mut input = input;
    while let Some((frame, rest)) = split_frame(input) {
        input = rest;
        let frame = Bytes::copy_from_slice(frame);
        let _ = unpacker.unpack(&frame).map(|frame| decode_frame(&frame));
        if let Ok(expanded) = expander.expand(&frame) {
            assert!(expanded.len() <= EXPANDED_BYTES_MAX.max(frame.len()));
            let _ = decode_frame(&expanded);
        }
        let Ok(messages) = decode_frame(&frame) else { continue };
        messages.iter().for_each(read_rows);
        let mut packed = Vec::new();
        packer.pack(&frame, &mut packed).expect("a frame can be packed");
        let unpacked = repacked.unpack(&packed).expect("a frame that was packed");
        assert_eq!(decode_frame(&unpacked).as_deref(), Ok(messages.as_slice()));
    }
});
