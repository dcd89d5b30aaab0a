//! Rows as they travel. A row is exactly what `COPY … (FORMAT binary)` has for one: a 16-bit field
//! count, then for each field a 32-bit length (-1 for NULL) and that many bytes, big-endian.
//!
//! In a relation of [`RowFormat::Text`](crate::message::RowFormat) the frame of the row is the same
//! and the bytes of a field are the type's text output.

use crate::codec::DecodeError;
use crate::primitive::Reader;

/// One row, validated: every field's length lies within it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    bytes: &'a [u8],
}

impl<'a> Row<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, whole: &'a [u8]) -> Result<Self, DecodeError> {
        let start = reader.offset();
        skip_row(reader)?;
        Ok(Row { bytes: &whole[start..reader.offset()] })
    }

    /// A row that stands alone.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let row = Row::read(&mut reader, bytes)?;
        match reader.is_empty() {
            true => Ok(row),
            false => Err(DecodeError::Malformed("row with bytes after its last field")),
        }
    }

    /// The row as COPY's binary format has it.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[must_use]
    pub fn field_count(&self) -> usize {
        usize::from(u16::from_be_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// The fields in order; `None` is NULL.
    pub fn fields(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut rest = &self.bytes[2..];
        (0..self.field_count()).map(move |_| {
            let (length, tail) = rest.split_at(4);
            let length = i32::from_be_bytes(length.try_into().expect("split at four bytes"));
            let (field, tail) = tail.split_at(usize::try_from(length).unwrap_or(0));
            rest = tail;
            (length >= 0).then_some(field)
        })
    }
}

fn skip_row(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let count = reader.i16()?;
    if count < 0 {
        return Err(DecodeError::Malformed("row with a negative field count"));
    }
    for _ in 0..count {
        match reader.i32()? {
            -1 => {}
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| DecodeError::Malformed("field with a negative length"))?;
                reader.take(length)?;
            }
        }
    }
    Ok(())
}

/// Writes one row field by field. The field count is given first, as COPY wants it.
pub struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> RowWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>, field_count: i16) -> Self {
        out.extend_from_slice(&field_count.to_be_bytes());
        RowWriter { out }
    }

    pub fn null(&mut self) {
        self.out.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    /// Appends a field whose bytes are at hand. PostgreSQL values are below 1 GiB.
    pub fn field(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).expect("a PostgreSQL value is below 1 GiB");
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    /// Appends a field that `write` puts at the end of the buffer; its length is filled in after.
    pub fn field_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        write(self.out);
        let length = i32::try_from(self.out.len() - at - 4).expect("a value is below 1 GiB");
        self.out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A set of columns, by position in the relation; bit 0 of byte 0 is the first column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ColumnSet<'a> {
    bits: &'a [u8],
}

impl<'a> ColumnSet<'a> {
    pub(crate) fn read(reader: &mut Reader<'a>, columns: usize) -> Result<Self, DecodeError> {
        let bits = reader.take(columns.div_ceil(8))?;
        let unused = bits.len() * 8 - columns;
        if bits.last().is_some_and(|last| last.leading_zeros() < unused as u32) {
            return Err(DecodeError::Malformed("column set with bits past the last column"));
        }
        Ok(ColumnSet { bits })
    }

    pub(crate) fn byte_count(&self) -> usize {
        self.bits.len()
    }

    #[must_use]
    pub fn contains(&self, column: usize) -> bool {
        self.bits.get(column / 8).is_some_and(|byte| byte >> (column % 8) & 1 == 1)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|&byte| byte == 0)
    }
}
