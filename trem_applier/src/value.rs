//! Fields as parameters of a statement: their bytes as the stream has them, whatever the type.

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use trem_wire::message::RowFormat;

type Converted = Result<IsNull, Box<dyn std::error::Error + Sync + Send>>;

/// A field of a row on its way into a parameter, as its bytes are.
#[derive(Debug)]
pub(crate) struct Value {
    bytes: Option<Bytes>,
    format: RowFormat,
}

impl Value {
    /// `field` lies within `rows`, and shares its memory.
    pub(crate) fn new(format: RowFormat, rows: &Bytes, field: Option<&[u8]>) -> Self {
        Value { bytes: field.map(|field| rows.slice_ref(field)), format }
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len)
    }

    /// A parameter that is no field of a row.
    pub(crate) fn whole(format: RowFormat, bytes: Bytes) -> Self {
        Value { bytes: Some(bytes), format }
    }
}

impl ToSql for Value {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Converted {
        match &self.bytes {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Converted {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.format {
            RowFormat::Binary => Format::Binary,
            RowFormat::Text => Format::Text,
        }
    }
}
