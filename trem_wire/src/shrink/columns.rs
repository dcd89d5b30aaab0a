//! Rows taken apart into columns, and put together again.
//!
//! A block is some rows with the same number of fields. Each column of it is written in the form
//! that suits its values, whatever their type: only lengths and bytes are looked at. The last row
//! of a block is remembered, so a block of one row has something to differ from. Forms go to the
//! control bytes of the frame, everything else to its data bytes.
//!
//! | form | data |
//! |---|---|
//! | nulls | nothing: all NULL |
//! | same | nothing: all equal to the last row of the block before |
//! | delta 2, 4, 8 | numbers of that many bytes: zigzag varints, differences to the row before |
//! | step 2, 4, 8 | the same, differences of those differences |
//! | fixed | the length they all have, then the values |
//! | mixed | for each row its length + 1, or 0 for NULL, then the values |
//! | fixed, mixed planes | the lengths as above, then all first bytes, all second bytes, ... |

use crate::codec::DecodeError;
use crate::primitive::{put_varint, unzigzag, zigzag, Reader};

const NULLS: u8 = 0;
const SAME: u8 = 1;
/// Plus 0, 1, 2 for numbers of 2, 4, 8 bytes.
const DELTA: u8 = 2;
const STEP: u8 = 5;
const FIXED: u8 = 8;
const MIXED: u8 = 9;
const FIXED_PLANES: u8 = 10;
const MIXED_PLANES: u8 = 11;

/// A longer value is not remembered.
const PAST_BYTES_MAX: usize = 128;

/// Longer values are not written in planes.
const PLANES_MAX: usize = 64;

/// How often a number must repeat before its column is written as the same.
const REPEATS: u32 = 3;

/// How many rows are looked at to choose a form.
const SAMPLE_ROWS: usize = 48;

/// What is remembered of one column: its last value.
#[derive(Clone, Default)]
pub(super) struct Past {
    value: Option<Vec<u8>>,
    /// The last difference between two numbers.
    step: u64,
    /// For how many blocks a number has been the same; known only where it is written.
    repeats: u32,
}

impl Past {
    fn number(&self, width: usize) -> u64 {
        match &self.value {
            Some(value) if value.len() == width => number(value),
            _ => 0,
        }
    }

    fn keep(&mut self, value: Option<&[u8]>) {
        match value.filter(|value| value.len() <= PAST_BYTES_MAX) {
            None => self.value = None,
            Some(value) => {
                let kept = self.value.get_or_insert_default();
                kept.clear();
                kept.extend_from_slice(value);
            }
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b] => u64::from(u16::from_be_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_be_bytes([a, b, c, d])),
        _ => bytes.try_into().map_or(0, u64::from_be_bytes),
    }
}

/// The difference of two numbers, so that it is small where they are near, across zero too.
fn difference(width: usize, value: u64, before: u64) -> u64 {
    let unused = 64 - 8 * width as u32;
    zigzag((value.wrapping_sub(before) << unused) as i64 >> unused)
}

fn varint_bytes(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Where the fields of a block's rows are, column by column.
#[derive(Default)]
pub(super) struct Fields {
    rows: usize,
    at: Vec<(u32, i32)>,
}

impl Fields {
    pub(super) fn start(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.at.clear();
        self.at.resize(rows * columns, (0, -1));
    }

    /// Reads one row, if it has `columns` fields.
    pub(super) fn read_row(
        &mut self,
        reader: &mut Reader<'_>,
        row: usize,
        columns: usize,
    ) -> Result<bool, DecodeError> {
        if usize::try_from(reader.i16()?) != Ok(columns) {
            return Ok(false);
        }
        let mut slot = row;
        for _ in 0..columns {
            let length = reader.i32()?;
            let start = reader.offset();
            reader.take(usize::try_from(length).unwrap_or(0))?;
            self.at[slot] = (start as u32, length);
            slot += self.rows;
        }
        Ok(true)
    }

    /// Writes the block, `pasts` being what is remembered of each column.
    pub(super) fn write(
        &self,
        whole: &[u8],
        pasts: &mut [Past],
        control: &mut Vec<u8>,
        data: &mut Vec<u8>,
    ) {
        if self.rows == 0 {
            return;
        }
        for (fields, past) in self.at.chunks_exact(self.rows).zip(pasts) {
            let column = Values { whole, fields };
            control.push(column.write(past, data));
        }
    }
}

/// The values of one column.
struct Values<'a> {
    whole: &'a [u8],
    fields: &'a [(u32, i32)],
}

impl<'a> Values<'a> {
    fn get(&self, row: usize) -> Option<&'a [u8]> {
        let (start, length) = self.fields[row];
        (length >= 0).then(|| &self.whole[start as usize..][..length as usize])
    }

    fn bytes(&self, row: usize) -> &'a [u8] {
        self.get(row).unwrap_or_default()
    }

    /// Writes the values and gives their form.
    fn write(&self, past: &mut Past, data: &mut Vec<u8>) -> u8 {
        let rows = self.fields.len();
        let length = self.fields[0].1;
        let uniform = self.fields.iter().all(|field| field.1 == length);
        if uniform && length < 0 {
            past.keep(None);
            return NULLS;
        }
        let is_number = uniform && matches!(length, 2 | 4 | 8);
        let same = uniform && past.value.as_deref().is_some_and(|past| self.all_equal(past));
        past.repeats = if same { past.repeats.saturating_add(1) } else { 0 };
        // A number that happens to be the same does not change the form, so that the control bytes
        // stay as they were; one that never changes costs nothing.
        if same && (!is_number || past.repeats > REPEATS) {
            return SAME;
        }
        let form = match is_number {
            true => self.write_numbers(length as usize, past, data),
            false => None,
        };
        past.keep(self.get(rows - 1));
        form.unwrap_or_else(|| self.write_bytes(uniform, past, data))
    }

    fn all_equal(&self, value: &[u8]) -> bool {
        (0..self.fields.len()).all(|row| self.bytes(row) == value)
    }

    fn write_numbers(&self, width: usize, past: &mut Past, data: &mut Vec<u8>) -> Option<u8> {
        let size = width.ilog2() as u8 - 1;
        let (mut delta, mut step, mut taken) = (0, 0, 0);
        let (mut before, mut last) = (past.number(width), past.step);
        for row in 0..self.fields.len().min(SAMPLE_ROWS) {
            let value = number(self.bytes(row));
            let difference = unzigzag(difference(width, value, before)) as u64;
            delta += varint_bytes(zigzag(difference as i64));
            step += varint_bytes(zigzag(difference.wrapping_sub(last) as i64));
            taken += width;
            (before, last) = (value, difference);
        }
        if delta.min(step) >= taken && self.fields.len() > 1 {
            return None;
        }
        let (mut before, mut last) = (past.number(width), past.step);
        // Steps must be much better: a form that changes by chance costs more than it saves.
        let form = if step * 2 <= delta { STEP } else { DELTA };
        for row in 0..self.fields.len() {
            let value = number(self.bytes(row));
            let changed = difference(width, value, before);
            let difference = unzigzag(changed) as u64;
            match form {
                DELTA => put_varint(data, changed),
                _ => put_varint(data, zigzag(difference.wrapping_sub(last) as i64)),
            }
            (before, last) = (value, difference);
        }
        past.step = last;
        Some(form + size)
    }

    fn write_bytes(&self, uniform: bool, past: &mut Past, data: &mut Vec<u8>) -> u8 {
        past.step = 0;
        if uniform {
            put_varint(data, self.fields[0].1 as u64);
        } else {
            self.fields.iter().for_each(|field| put_varint(data, (field.1 + 1) as u64));
        }
        let planes = self.suits_planes();
        if planes {
            self.write_planes(data);
        } else {
            (0..self.fields.len()).for_each(|row| data.extend_from_slice(self.bytes(row)));
        }
        match (uniform, planes) {
            (true, false) => FIXED,
            (true, true) => FIXED_PLANES,
            (false, false) => MIXED,
            (false, true) => MIXED_PLANES,
        }
    }

    fn longest(&self) -> usize {
        self.fields.iter().map(|field| field.1.max(0) as usize).max().unwrap_or(0)
    }

    /// Whether most bytes of a value are those of the value before, at the same place.
    fn suits_planes(&self) -> bool {
        let rows = self.fields.len();
        if rows < 4 || self.longest() > PLANES_MAX {
            return false;
        }
        let (mut same, mut all) = (0, 0);
        for row in 1..rows.min(SAMPLE_ROWS) {
            let (before, value) = (self.bytes(row - 1), self.bytes(row));
            same += before.iter().zip(value).filter(|(a, b)| a == b).count();
            all += value.len();
        }
        same * 2 > all
    }

    fn write_planes(&self, data: &mut Vec<u8>) {
        let mut planes = Planes::new();
        self.fields.iter().for_each(|field| planes.count(field.1.max(0) as usize));
        let start = data.len();
        data.resize(start + planes.lay_out(), 0);
        let out = &mut data[start..];
        for row in 0..self.fields.len() {
            for (byte, next) in self.bytes(row).iter().zip(&mut planes.next) {
                out[*next as usize] = *byte;
                *next += 1;
            }
        }
    }
}

/// Where the next byte of each plane is.
struct Planes {
    /// At first: how many values have just this length.
    next: [u32; PLANES_MAX + 1],
}

impl Planes {
    fn new() -> Self {
        Planes { next: [0; PLANES_MAX + 1] }
    }

    /// Notes a value of this length, no longer than [`PLANES_MAX`].
    fn count(&mut self, length: usize) {
        self.next[length] += 1;
    }

    /// Says where each plane starts, and gives the length of all together. Plane `n` has a byte of
    /// each value that is longer than `n`.
    fn lay_out(&mut self) -> usize {
        let mut longer: u32 = self.next.iter().sum();
        let mut start = 0;
        for next in &mut self.next {
            longer -= *next;
            *next = start;
            start += longer;
        }
        start as usize
    }
}

/// One column of a block that is being put together again.
enum Column<'a> {
    Nulls,
    Same(Vec<u8>),
    Numbers { width: usize, next: std::vec::IntoIter<u64> },
    Bytes { lengths: Lengths<'a>, bytes: Reader<'a> },
    Planes { lengths: Lengths<'a>, bytes: &'a [u8], planes: Box<Planes> },
}

#[derive(Clone)]
enum Lengths<'a> {
    Fixed(usize),
    Mixed(Reader<'a>),
}

impl Lengths<'_> {
    fn next(&mut self) -> Result<Option<usize>, DecodeError> {
        match self {
            Lengths::Fixed(length) => Ok(Some(*length)),
            Lengths::Mixed(lengths) => Ok(lengths.varint()?.checked_sub(1).map(|l| l as usize)),
        }
    }
}

/// The lengths of `rows` values, and their sum.
fn read_lengths<'a>(
    data: &mut Reader<'a>,
    rows: usize,
) -> Result<(Lengths<'a>, usize), DecodeError> {
    let mut walk = data.clone();
    let mut all = 0_usize;
    for _ in 0..rows {
        let length = usize::try_from(walk.varint()?.saturating_sub(1)).map_err(|_| BROKEN)?;
        all = all.checked_add(length).ok_or(BROKEN)?;
    }
    let lengths = data.take(walk.offset() - data.offset())?;
    Ok((Lengths::Mixed(Reader::new(lengths)), all))
}

/// A block that is being put together again, row by row.
pub(super) struct Block<'a> {
    columns: Vec<Column<'a>>,
}

impl<'a> Block<'a> {
    /// Reads a block of `rows` rows, of as many columns as `pasts`.
    pub(super) fn read(
        control: &mut Reader<'_>,
        data: &mut Reader<'a>,
        rows: usize,
        pasts: &mut [Past],
    ) -> Result<Self, DecodeError> {
        let mut columns = Vec::with_capacity(pasts.len());
        if rows > 0 {
            for past in pasts {
                columns.push(Column::read(control.byte()?, data, rows, past)?);
            }
        }
        Ok(Block { columns })
    }

    /// Appends the next row.
    pub(super) fn put_row(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.extend_from_slice(&(self.columns.len() as u16).to_be_bytes());
        self.columns.iter_mut().try_for_each(|column| column.put(out))
    }
}

const BROKEN: DecodeError = DecodeError::Malformed("column that does not fit its rows");

impl<'a> Column<'a> {
    fn read(
        form: u8,
        data: &mut Reader<'a>,
        rows: usize,
        past: &mut Past,
    ) -> Result<Self, DecodeError> {
        match form {
            NULLS => {
                past.keep(None);
                Ok(Column::Nulls)
            }
            SAME => Ok(Column::Same(past.value.clone().ok_or(BROKEN)?)),
            DELTA..=7 => Self::read_numbers(form, data, rows, past),
            FIXED | FIXED_PLANES => {
                let length = data.length()?;
                let all = length.checked_mul(rows).ok_or(BROKEN)?;
                let lengths = Lengths::Fixed(length);
                match form {
                    FIXED => Self::read_bytes(lengths, rows, all, data, past),
                    _ => Self::read_planes(lengths, rows, all, data, past),
                }
            }
            MIXED | MIXED_PLANES => {
                let (lengths, all) = read_lengths(data, rows)?;
                match form {
                    MIXED => Self::read_bytes(lengths, rows, all, data, past),
                    _ => Self::read_planes(lengths, rows, all, data, past),
                }
            }
            _ => Err(DecodeError::Malformed("unknown form of a column")),
        }
    }

    fn read_numbers(
        form: u8,
        data: &mut Reader<'a>,
        rows: usize,
        past: &mut Past,
    ) -> Result<Self, DecodeError> {
        let width = 2 << ((form - DELTA) % 3);
        let steps = form >= STEP;
        let (mut before, mut last) = (past.number(width), past.step);
        let mut numbers = Vec::with_capacity(rows);
        for _ in 0..rows {
            let mut difference = unzigzag(data.varint()?) as u64;
            if steps {
                difference = difference.wrapping_add(last);
            }
            (before, last) = (before.wrapping_add(difference), difference);
            numbers.push(before);
        }
        past.step = last;
        past.keep(Some(&before.to_be_bytes()[8 - width..]));
        Ok(Column::Numbers { width, next: numbers.into_iter() })
    }

    /// `all` is the sum of the lengths.
    fn read_bytes(
        lengths: Lengths<'a>,
        rows: usize,
        all: usize,
        data: &mut Reader<'a>,
        past: &mut Past,
    ) -> Result<Self, DecodeError> {
        let bytes = data.take(all)?;
        let mut walk = lengths.clone();
        let mut last = None;
        for _ in 0..rows {
            last = walk.next()?;
        }
        past.step = 0;
        past.keep(last.map(|length| &bytes[all - length..]));
        Ok(Column::Bytes { lengths, bytes: Reader::new(bytes) })
    }

    fn read_planes(
        lengths: Lengths<'a>,
        rows: usize,
        all: usize,
        data: &mut Reader<'a>,
        past: &mut Past,
    ) -> Result<Self, DecodeError> {
        let bytes = data.take(all)?;
        let mut planes = Box::new(Planes::new());
        let mut walk = lengths.clone();
        let mut last = None;
        for _ in 0..rows {
            last = walk.next()?;
            let length = last.unwrap_or(0);
            if length > PLANES_MAX {
                return Err(BROKEN);
            }
            planes.count(length);
        }
        planes.lay_out();
        // The last row has the last byte of each of its planes.
        let ends = planes.next[1..].iter().map(|&end| bytes[end as usize - 1]);
        let value: Vec<u8> = ends.take(last.unwrap_or(0)).collect();
        past.step = 0;
        past.keep(last.map(|_| value.as_slice()));
        Ok(Column::Planes { lengths, bytes, planes })
    }

    fn put(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match self {
            Column::Nulls => put_length(out, None),
            Column::Same(value) => {
                put_length(out, Some(value.len()));
                out.extend_from_slice(value);
            }
            Column::Numbers { width, next } => {
                put_length(out, Some(*width));
                let number = next.next().ok_or(BROKEN)?;
                out.extend_from_slice(&number.to_be_bytes()[8 - *width..]);
            }
            Column::Bytes { lengths, bytes } => {
                let length = lengths.next()?;
                put_length(out, length);
                out.extend_from_slice(bytes.take(length.unwrap_or(0))?);
            }
            Column::Planes { lengths, bytes, planes } => {
                let length = lengths.next()?;
                put_length(out, length);
                let planes = planes.next.iter_mut().take(length.unwrap_or(0));
                out.extend(planes.map(|next| {
                    *next += 1;
                    bytes[*next as usize - 1]
                }));
            }
        }
        Ok(())
    }
}

fn put_length(out: &mut Vec<u8>, length: Option<usize>) {
    let length = length.map_or(-1, |length| length as i32);
    out.extend_from_slice(&length.to_be_bytes());
}
