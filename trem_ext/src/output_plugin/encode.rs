//! How one value becomes the bytes of a field. The bytes are exactly those of the type's send
//! function (or output function, in a relation of text rows).
//!
//! Common types are encoded here from the raw datum, without a call into the server; the rest goes
//! through the type's function, looked up once. A value that is only referred to (TOAST on disk) is
//! never followed: its chunks may be gone. See [`is_on_disk`].
//!
//! # A value that cannot be sent
//! A function of the server may fail on a value (of an enum without that label, damaged ones), and
//! would quote it. Such a field becomes NULL here and the failure is noted; who encodes a change
//! asks for it at the end ([`take_failure`]) and takes the change back. So encoding itself has one
//! way.

use std::ffi::{c_char, CStr};

use pgrx::pg_sys::{self, BuiltinOid, Datum};
use pgrx::varlena;
use trem_wire::message::RowFormat;

use crate::pg::{out_of_memory, over_row, Failed};

/// One per column, made when the relation is set up.
pub(crate) enum Encoder {
    /// A type of one, two, four or eight bytes that is passed by value and sent in network order.
    Byte,
    Word2,
    Word4,
    Word8,
    Uuid,
    Interval,
    TimeTz,
    Name,
    Numeric,
    /// A variable-length type whose binary form is its content.
    Content,
    /// The type's send function.
    Send(Box<pg_sys::FmgrInfo>),
    /// The type's output function.
    Output(Box<pg_sys::FmgrInfo>),
}

impl Encoder {
    /// The encoder for a column. Functions are looked up in, and live in, `memory`.
    pub(crate) fn new(
        type_oid: pg_sys::Oid,
        format: RowFormat,
        memory: pg_sys::MemoryContext,
    ) -> Encoder {
        if format == RowFormat::Text {
            return Encoder::output(type_oid, memory);
        }
        // SAFETY: a lookup in the system cache; a domain travels as its base type.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        Encoder::built_in(base).unwrap_or_else(|| Encoder::send(type_oid, memory))
    }

    fn built_in(type_oid: pg_sys::Oid) -> Option<Encoder> {
        use BuiltinOid::*;
        Some(match BuiltinOid::try_from(type_oid).ok()? {
            BOOLOID | CHAROID => Encoder::Byte,
            INT2OID => Encoder::Word2,
            INT4OID | FLOAT4OID | DATEOID | OIDOID | XIDOID | CIDOID => Encoder::Word4,
            INT8OID | FLOAT8OID | TIMEOID | TIMESTAMPOID | TIMESTAMPTZOID | MONEYOID | XID8OID
            | PG_LSNOID => Encoder::Word8,
            UUIDOID => Encoder::Uuid,
            INTERVALOID => Encoder::Interval,
            TIMETZOID => Encoder::TimeTz,
            NUMERICOID => Encoder::Numeric,
            NAMEOID => Encoder::Name,
            BYTEAOID | TEXTOID | VARCHAROID | BPCHAROID | JSONOID => Encoder::Content,
            _ => return None,
        })
    }

    fn send(type_oid: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Encoder {
        let mut function = pg_sys::Oid::INVALID;
        let mut varlena = false;
        // SAFETY: lookups; both out parameters are ours. A type without the function is an error.
        unsafe { pg_sys::getTypeBinaryOutputInfo(type_oid, &mut function, &mut varlena) };
        Encoder::Send(looked_up(function, memory))
    }

    fn output(type_oid: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Encoder {
        let mut function = pg_sys::Oid::INVALID;
        let mut varlena = false;
        // SAFETY: lookups; both out parameters are ours.
        unsafe { pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut varlena) };
        Encoder::Output(looked_up(function, memory))
    }

    /// Appends the field: its length and its bytes.
    ///
    /// # Safety
    /// `datum` is a value of the type for which the encoder was made, not NULL and not on disk.
    /// The current memory context is reset by the caller from time to time.
    #[inline]
    pub(crate) unsafe fn encode(&mut self, datum: Datum, out: &mut Vec<u8>) {
        // SAFETY: the datum is a value of the encoder's type, see above. What a function of the
        // server returns lies in the current memory context.
        unsafe {
            match self {
                // Neither `true` nor a "char" has anything but its lowest byte to say.
                Encoder::Byte => field(out, &[datum.value() as u8]),
                Encoder::Word2 => field(out, &(datum.value() as u16).to_be_bytes()),
                Encoder::Word4 => field(out, &(datum.value() as u32).to_be_bytes()),
                Encoder::Word8 => field(out, &(datum.value() as u64).to_be_bytes()),
                Encoder::Uuid => field(out, &*datum.cast_mut_ptr::<[u8; 16]>()),
                Encoder::Interval => encode_interval(datum, out),
                Encoder::TimeTz => encode_timetz(datum, out),
                Encoder::Name => field(out, CStr::from_ptr(datum.cast_mut_ptr()).to_bytes()),
                Encoder::Numeric => match content(datum) {
                    Ok(content) => encode_numeric(content, out),
                    Err(failed) => note(failed, out),
                },
                Encoder::Content => match content(datum) {
                    Ok(content) => field(out, content),
                    Err(failed) => note(failed, out),
                },
                Encoder::Send(function) => {
                    let function: *mut pg_sys::FmgrInfo = &mut **function;
                    match over_row(|| unguarded::SendFunctionCall(function, datum)) {
                        Ok(sent) => field(out, varlena::varlena_to_byte_slice(sent)),
                        Err(failed) => note(failed, out),
                    }
                }
                Encoder::Output(function) => {
                    let function: *mut pg_sys::FmgrInfo = &mut **function;
                    match over_row(|| unguarded::OutputFunctionCall(function, datum)) {
                        Ok(text) => field(out, CStr::from_ptr(text).to_bytes()),
                        Err(failed) => note(failed, out),
                    }
                }
            }
        }
    }
}

/// Declared here to be called without a guard: errors are caught around them.
mod unguarded {
    use super::{c_char, pg_sys, Datum};

    extern "C-unwind" {
        pub(super) fn SendFunctionCall(
            function: *mut pg_sys::FmgrInfo,
            value: Datum,
        ) -> *mut pg_sys::varlena;
        pub(super) fn OutputFunctionCall(
            function: *mut pg_sys::FmgrInfo,
            value: Datum,
        ) -> *mut c_char;
        pub(super) fn detoast_attr(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    }
}

/// The first value of the change at hand that cannot be sent.
static mut FAILURE: Option<Failed> = None;

/// NULL for a value that cannot be sent.
#[cold]
fn note(failed: Failed, out: &mut Vec<u8>) {
    // SAFETY: a variable of the backend, which has one thread.
    unsafe { FAILURE = FAILURE.or(Some(failed)) };
    null(out);
}

/// Why what was encoded since the last call is not to be sent, if so.
#[inline]
pub(crate) fn take_failure() -> Option<Failed> {
    // SAFETY: a variable of the backend, which has one thread.
    unsafe {
        let failure = FAILURE;
        FAILURE = None;
        failure
    }
}

fn looked_up(function: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Box<pg_sys::FmgrInfo> {
    let mut info = Box::new(pg_sys::FmgrInfo::default());
    // SAFETY: fills the record, whose address stays; what it points to lives in `memory`.
    unsafe { pg_sys::fmgr_info_cxt(function, &mut *info, memory) };
    info
}

/// Makes room for what depends on the size of a row. Where there is none Rust would end the
/// process, and then the server ends all others; so it is an error of the server. (What is small
/// comes from the reserve of `pg::allocate`.)
#[inline]
pub(crate) fn make_room(buffer: &mut Vec<u8>, bytes: usize) {
    if buffer.try_reserve(bytes).is_err() {
        let message = format!("out of memory: a row of the stream needs {bytes} bytes more");
        out_of_memory(message);
    }
}

/// Appends bytes that are encoded already.
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    make_room(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a field whose bytes are at hand. PostgreSQL values are below 1 GiB.
#[inline]
pub(crate) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    make_room(out, bytes.len());
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[inline]
pub(crate) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

/// Whether a value of a variable-length type is only a pointer to TOAST chunks on disk.
///
/// # Safety
/// `datum` is a value of a type with `attlen = -1`, not NULL.
#[inline]
pub(crate) unsafe fn is_on_disk(datum: Datum) -> bool {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: such a value starts with a header of at least one byte, two if the first says so.
    unsafe {
        varlena::varatt_is_1b_e(value)
            && u32::from(varlena::vartag_1b_e(value)) == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// The content of a variable-length value: in place where it stands plain in memory, else
/// decompressed into the current memory context.
unsafe fn content<'a>(datum: Datum) -> Result<&'a [u8], Failed> {
    let mut value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the datum is a varlena that is not on disk. What `ReorderBufferToastReplace` put
    // together is an indirect pointer, unaligned in the tuple, to a varlena in memory.
    unsafe {
        if varlena::varatt_is_1b_e(value) {
            let tag = u32::from(varlena::vartag_1b_e(value));
            value = if tag == pg_sys::vartag_external::VARTAG_INDIRECT {
                varlena::vardata_1b_e(value).cast::<*mut pg_sys::varlena>().read_unaligned()
            } else {
                over_row(|| unguarded::detoast_attr(value))?
            };
        }
        if varlena::varatt_is_4b_c(value) || varlena::varatt_is_1b_e(value) {
            value = over_row(|| unguarded::detoast_attr(value))?;
        }
        Ok(varlena::varlena_to_byte_slice(value))
    }
}

unsafe fn encode_interval(datum: Datum, out: &mut Vec<u8>) {
    // SAFETY: an interval is passed by reference to an aligned struct in the tuple.
    let interval = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
    out.extend_from_slice(&16_u32.to_be_bytes());
    out.extend_from_slice(&interval.time.to_be_bytes());
    out.extend_from_slice(&interval.day.to_be_bytes());
    out.extend_from_slice(&interval.month.to_be_bytes());
}

unsafe fn encode_timetz(datum: Datum, out: &mut Vec<u8>) {
    // SAFETY: a timetz is passed by reference to an aligned struct in the tuple.
    let time = unsafe { &*datum.cast_mut_ptr::<pg_sys::TimeTzADT>() };
    out.extend_from_slice(&12_u32.to_be_bytes());
    out.extend_from_slice(&time.time.to_be_bytes());
    out.extend_from_slice(&time.zone.to_be_bytes());
}

/// What `numeric_send` writes, from the on-disk form (utils/adt/numeric.c, NumericChoice): a header
/// of two or four bytes in the machine's byte order, then the digits, each 0 to 9999. A special
/// value (NaN, infinity) has the short header and no digits.
fn encode_numeric(content: &[u8], out: &mut Vec<u8>) {
    const SHORT: u16 = 0x8000;
    const SIGN_MASK: u16 = 0xC000;
    const SPECIAL: u16 = 0xC000;
    const SPECIAL_MASK: u16 = 0xF000;
    const NEGATIVE: u16 = 0x4000;

    let word = |at: usize| u16::from_ne_bytes([content[at], content[at + 1]]);
    let header = word(0);
    let (digits, weight, sign, scale) = if header & SHORT != 0 {
        let weight = i16::from(header as u8 & 0x3F) - if header & 0x40 != 0 { 64 } else { 0 };
        let sign = match header & SIGN_MASK {
            SPECIAL => header & SPECIAL_MASK,
            _ if header & 0x2000 != 0 => NEGATIVE,
            _ => 0,
        };
        (&content[2..], weight as u16, sign, (header & 0x1F80) >> 7)
    } else {
        (&content[4..], word(2), header & SIGN_MASK, header & 0x3FFF)
    };
    out.extend_from_slice(&(8 + digits.len() as u32).to_be_bytes());
    for part in [(digits.len() / 2) as u16, weight, sign, scale] {
        out.extend_from_slice(&part.to_be_bytes());
    }
    for digit in digits.chunks_exact(2) {
        out.extend_from_slice(&u16::from_ne_bytes([digit[0], digit[1]]).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &[u16], digits: &[u16], expect: [u16; 4]) {
        let content: Vec<u8> =
            header.iter().chain(digits).flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = Vec::new();
        encode_numeric(&content, &mut out);
        let words = expect.iter().chain(digits).flat_map(|word| word.to_be_bytes());
        let mut sent = (8 + 2 * digits.len() as u32).to_be_bytes().to_vec();
        sent.extend(words);
        assert_eq!(out, sent);
    }

    // Count of digits, weight, sign, scale, as `numeric_send` has them.
    #[test]
    fn numerics_are_sent_as_the_server_sends_them() {
        check(&[0x8000], &[], [0, 0, 0, 0]);
        check(&[0x8000 | 0x2000 | 2 << 7], &[1, 5000], [2, 0, 0x4000, 2]);
        check(&[0x8000 | 4 << 7 | 0x7F], &[1], [1, 0xFFFF, 0, 4]);
        check(&[0x4000 | 5, 200], &[9, 9], [2, 200, 0x4000, 5]);
        check(&[0xC000], &[], [0, 0, 0xC000, 0]);
        check(&[0xD000], &[], [0, 0, 0xD000, 0x20]);
        check(&[0xF000], &[], [0, 0, 0xF000, 0x20]);
    }
}
