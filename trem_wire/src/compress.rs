//! How a frame is packed: as it is, or made small by what is known of rows (see [`shrink`]) and
//! then through one zstd stream that lasts as long as the connection.
//!
//! The stream is flushed at each frame, so a frame can be unpacked the moment it arrives, while the
//! window remembers earlier ones: even a transaction of 200 bytes shrinks. Level 1 with a window of
//! 2^17 bytes keeps a stream under 1 MB of memory.
//!
//! | first byte | then |
//! |---|---|
//! | 0 | the messages |
//! | 1 | the length of the shrunk frame (varint), then the bytes that the zstd stream gave up to its flush |
//! | 2 | the shrunk frame: zstd finds nothing in one so small |
//!
//! [`shrink`]: crate::shrink

use bytes::Bytes;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::codec::DecodeError;
use crate::primitive::{put_varint, Reader};
use crate::shrink::{Expander, Shrinker, AS_IT_IS};

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const SHRUNK: u8 = 2;

/// A shrunk frame up to this is not compressed: most of it is differences, and zstd would take
/// longer than everything else.
const SMALL_BYTES: usize = 64;

const LEVEL: i32 = 1;
const WINDOW_LOG: u32 = 17;

/// More than a row of PostgreSQL can take; anything larger is not a frame.
const FRAME_BYTES_MAX: usize = 2 << 30;

/// More than this is given back after a frame.
const SPACE_BYTES_MAX: usize = 256 * 1024;

/// What the option `compression` names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Zstd,
    None,
}

/// Packs the frames of one stream, in order.
pub struct Packer {
    encoder: Option<Encoder<'static>>,
    shrinker: Shrinker,
    shrunk: Vec<u8>,
}

impl Packer {
    /// Fails only when zstd cannot get its memory.
    pub fn new(compression: Compression) -> std::io::Result<Self> {
        let encoder = match compression {
            Compression::None => None,
            Compression::Zstd => {
                let mut encoder = Encoder::new(LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
                encoder.set_parameter(CParameter::ContentSizeFlag(false))?;
                Some(encoder)
            }
        };
        Ok(Packer { encoder, shrinker: Shrinker::default(), shrunk: Vec::new() })
    }

    /// Appends the packed form of a frame to `out`. Fails when `messages` is not a frame, or zstd
    /// cannot get its memory.
    pub fn pack(&mut self, messages: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        let Some(encoder) = &mut self.encoder else {
            out.push(PLAIN);
            out.extend_from_slice(messages);
            return Ok(());
        };
        self.shrunk.clear();
        let (head, rest) = if Shrinker::takes(messages) {
            self.shrinker.shrink(messages, &mut self.shrunk).map_err(std::io::Error::other)?;
            (self.shrunk.as_slice(), [].as_slice())
        } else {
            (AS_IT_IS, messages)
        };
        let length = head.len() + rest.len();
        if length <= SMALL_BYTES {
            out.push(SHRUNK);
            out.extend_from_slice(head);
            return Ok(());
        }
        out.push(ZSTD);
        put_varint(out, length as u64);
        for part in [head, rest] {
            let mut input = InBuffer::around(part);
            while input.pos() < part.len() {
                append(out, |output| encoder.run(&mut input, output).map(drop))?;
            }
        }
        while append(out, |output| encoder.flush(output))? > 0 {}
        Ok(())
    }
}

/// Unpacks the frames of one stream, in order.
pub struct Unpacker {
    decoder: Decoder<'static>,
    expander: Expander,
    /// Where a frame is inflated before it is expanded.
    space: Vec<u8>,
}

impl Unpacker {
    /// Fails only when zstd cannot get its memory.
    pub fn new() -> std::io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Unpacker { decoder, expander: Expander::default(), space: Vec::new() })
    }

    /// The messages of a packed frame.
    pub fn unpack(&mut self, frame: &[u8]) -> Result<Bytes, DecodeError> {
        let mut messages = Vec::new();
        self.unpack_into(frame, &mut messages)?;
        Ok(messages.into())
    }

    /// Appends the messages of a packed frame: those of many small ones can share their memory.
    /// After an error the end of `messages` is worth nothing.
    pub fn unpack_into(&mut self, frame: &[u8], messages: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut reader = Reader::new(frame);
        match reader.byte()? {
            PLAIN => messages.extend_from_slice(&frame[1..]),
            ZSTD => {
                let length = usize::try_from(reader.varint()?)
                    .ok()
                    .filter(|&length| length <= FRAME_BYTES_MAX)
                    .ok_or(DecodeError::Malformed("frame larger than any row"))?;
                self.inflate(&frame[reader.offset()..], length)?;
                self.expander.expand_into(&self.space, messages)?;
            }
            SHRUNK => self.expander.expand_into(&frame[1..], messages)?,
            _ => return Err(DecodeError::Malformed("unknown packing")),
        }
        Ok(())
    }

    /// Fills `space`.
    fn inflate(&mut self, packed: &[u8], length: usize) -> Result<(), DecodeError> {
        const BROKEN: DecodeError = DecodeError::Malformed("broken zstd stream");
        let messages = &mut self.space;
        messages.clear();
        messages.shrink_to(SPACE_BYTES_MAX);
        let mut input = InBuffer::around(packed);
        loop {
            let (consumed, had) = (input.pos(), messages.len());
            append(messages, |output| self.decoder.run(&mut input, output).map(drop))
                .map_err(|_| BROKEN)?;
            if messages.len() > length {
                return Err(BROKEN);
            }
            if input.pos() == consumed && messages.len() == had {
                break;
            }
        }
        if messages.len() != length || input.pos() != packed.len() {
            return Err(BROKEN);
        }
        Ok(())
    }
}

/// Makes room at the end of `out` and lets `step` write there.
fn append<T>(
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    const STEP_BYTES: usize = 16 * 1024;
    let at = out.len();
    out.try_reserve(STEP_BYTES).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    step(&mut OutBuffer::around_pos(out, at))
}
