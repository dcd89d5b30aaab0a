//! Whether history has a column in the form in which the definition has it: the same type, the same
//! modifier, a type of the user that is made of the same parts.
//!
//! # When it has not
//! The direction decides. Where history is *older* than the definition (the change committed before
//! it was published) the value that it has is not the one that the table has had since: rewriting a
//! table is not in the WAL as changes. So the column is *unknown* in such rows, and the applier
//! reads them again. Where history is *newer* (DDL after the publish) the definition is out of
//! date, and the stream stops.
//!
//! Attribute numbers only grow, so of a column that is not there yet, or no more, the direction is
//! known by itself. Names are no form: columns are bound by number.

use pgrx::pg_sys;
use trem_wire::definition::{
    DefinedAttribute, DefinedColumn, DefinedLabel, DefinedParts, DefinedShape,
};

use super::error::StreamError;
use super::relation::{attribute_name, Source};
use super::rules::Read;
use crate::pg;

type Attribute = pg_sys::FormData_pg_attribute;

/// How history has a column.
pub(crate) enum Form<'a> {
    Same(&'a Attribute),
    /// Not yet as the definition has it. The words say how, as a sentence.
    Unknown(String),
}

/// What the definition says of a column.
struct Wanted<'a> {
    /// `Column "a"`, or more words that say which.
    what: String,
    name: &'a str,
    type_oid: u32,
    type_modifier: i32,
    type_name: &'a str,
    usage: Usage,
}

/// What is done with the values of a type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usage {
    Sent,
    /// A rule evaluates them, so the names of attributes count, too: of JSON, say.
    Read,
    /// A rule makes them, also from the names of labels: those must be there.
    Made,
}

impl Source<'_> {
    /// A column that is passed through.
    pub(crate) fn form_of_column<'a>(
        &self,
        attributes: &[&'a Attribute],
        column: &DefinedColumn,
    ) -> Result<Form<'a>, StreamError> {
        let wanted = Wanted {
            what: format!("Column \"{}\"", column.source_name),
            name: &column.source_name,
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            type_name: &column.type_name,
            usage: Usage::Sent,
        };
        self.form(attributes, column.attnum, &wanted)
    }

    /// A column that rules read. `read` is how they know it.
    pub(crate) fn form_of_input<'a>(
        &self,
        attributes: &[&'a Attribute],
        attnum: i16,
        read: &Read,
    ) -> Result<Form<'a>, StreamError> {
        let input = self.table().inputs.iter().find(|input| input.attnum == attnum);
        let name = input.map_or("", |input| input.name.as_str());
        let wanted = Wanted {
            what: format!("Column \"{name}\", which a rule reads,"),
            name,
            type_oid: read.type_oid.to_u32(),
            type_modifier: read.type_modifier,
            type_name: &read.type_name,
            usage: Usage::Read,
        };
        match self.form(attributes, attnum, &wanted)? {
            Form::Same(attribute) if attribute.attcollation != read.collation => {
                let what = &wanted.what;
                self.differs(
                    format!("{what} has another collation now."),
                    format!("{what} does not have its collation yet."),
                )
            }
            form => Ok(form),
        }
    }

    /// The type of a column that is computed. `Some`: it is not yet as it was published.
    pub(crate) fn form_of_result(
        &self,
        column: &DefinedColumn,
    ) -> Result<Option<String>, StreamError> {
        self.type_form(&Wanted {
            what: format!("Column \"{}\"", column.name),
            name: &column.name,
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            type_name: &column.type_name,
            usage: Usage::Made,
        })
    }

    fn form<'a>(
        &self,
        attributes: &[&'a Attribute],
        attnum: i16,
        wanted: &Wanted<'_>,
    ) -> Result<Form<'a>, StreamError> {
        let what = &wanted.what;
        let Some(attribute) = self.attribute(attributes, attnum) else {
            return Ok(Form::Unknown(format!("{what} is not there yet.")));
        };
        if attribute.attisdropped {
            return Err(self.changed(format!("{what} was dropped.")));
        }
        let same_type = attribute.atttypid.to_u32() == wanted.type_oid;
        let modifiers = (attribute.atttypmod, wanted.type_modifier);
        // A rule knows the modifier, too: it leaves out a cast to what the column is anyway.
        let same_values = modifiers.0 == modifiers.1
            || self.older && keeps_values(wanted.type_oid, modifiers.0, modifiers.1);
        if !same_type || !same_values {
            let type_name = wanted.type_name;
            return self.differs(
                format!("{what} is no longer of type {type_name}."),
                format!("{what} is not yet of type {type_name}."),
            );
        }
        match self.type_form(wanted)? {
            Some(unknown) => Ok(Form::Unknown(unknown)),
            None => {
                self.compare_name(wanted, attribute)?;
                Ok(Form::Same(attribute))
            }
        }
    }

    fn compare_name(&self, wanted: &Wanted<'_>, attribute: &Attribute) -> Result<(), StreamError> {
        if self.older || self.ignores_ddl() {
            return Ok(());
        }
        let now = attribute_name(attribute);
        if now == wanted.name {
            return Ok(());
        }
        let what = &wanted.what;
        Err(self.changed(format!("{what} was renamed to \"{now}\".")))
    }

    /// `Some`: the type, or one inside of it, is not yet as it was published.
    fn type_form(&self, wanted: &Wanted<'_>) -> Result<Option<String>, StreamError> {
        let defined = &self.table().shapes;
        let is_same = |shape: &DefinedShape| {
            let other = defined.iter().find(|other| other.type_oid == shape.type_oid);
            // A definition of before shapes were published says nothing.
            defined.is_empty() || other.is_some_and(|other| is_same(shape, other, wanted.usage))
        };
        let Wanted { what, type_name, .. } = wanted;
        let same = pg::type_shapes(wanted.type_oid).is_some_and(|of| of.iter().all(is_same));
        if same {
            return Ok(None);
        }
        let form: Form<'_> = self.differs(
            format!("{what} is of type {type_name}, which was altered."),
            format!("{what} is of type {type_name}, which was altered since."),
        )?;
        match form {
            Form::Unknown(sentence) => Ok(Some(sentence)),
            Form::Same(_) => Ok(None),
        }
    }

    /// A difference, in words for either direction.
    fn differs<'a>(&self, newer: String, older: String) -> Result<Form<'a>, StreamError> {
        match self.older {
            true => Ok(Form::Unknown(older)),
            false => Err(self.changed(newer)),
        }
    }
}

/// Every value under the modifier `before` is the same under `after`: what `ALTER TYPE` would leave
/// as it is.
fn keeps_values(type_oid: u32, before: i32, after: i32) -> bool {
    if after < 0 {
        return true;
    }
    if before < 0 {
        return false;
    }
    match pg_sys::BuiltinOid::from_u32(type_oid) {
        Ok(
            pg_sys::BuiltinOid::VARCHAROID
            | pg_sys::BuiltinOid::VARBITOID
            | pg_sys::BuiltinOid::TIMEOID
            | pg_sys::BuiltinOid::TIMETZOID
            | pg_sys::BuiltinOid::TIMESTAMPOID
            | pg_sys::BuiltinOid::TIMESTAMPTZOID,
        ) => after >= before,
        // Precision in the upper half, scale in the lower.
        Ok(pg_sys::BuiltinOid::NUMERICOID) => {
            let parts = |modifier: i32| ((modifier - 4) >> 16, (modifier - 4) & 0xFFFF);
            parts(after).0 >= parts(before).0 && parts(after).1 == parts(before).1
        }
        _ => false,
    }
}

/// Whether a type is in history what the definition says.
fn is_same(history: &DefinedShape, defined: &DefinedShape, usage: Usage) -> bool {
    use DefinedParts::{Composite, Enum};
    match (&history.parts, &defined.parts) {
        (Composite { attributes: history, .. }, Composite { attributes: defined, .. }) => {
            let same = |(one, other): (&DefinedAttribute, &DefinedAttribute)| {
                (one.attnum, one.type_oid) == (other.attnum, other.type_oid)
                    && (usage != Usage::Read || one.name == other.name)
            };
            history.len() == defined.len() && history.iter().zip(defined).all(same)
        }
        // Labels only come, so a value that is there has a label that both sides know.
        (Enum(history), Enum(defined)) => {
            let find = |oid| history.iter().find(|label| label.oid == oid);
            let same = |label: &DefinedLabel| match find(label.oid) {
                Some(found) => found.label == label.label,
                None => usage != Usage::Made,
            };
            defined.iter().all(same)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modifier_that_only_widens_leaves_values_as_they_are() {
        let numeric = |precision: i32, scale: i32| ((precision << 16) | scale) + 4;
        for (type_oid, before, after, keeps) in [
            (pg_sys::VARCHAROID, 14, 24, true),
            (pg_sys::VARCHAROID, 24, 14, false),
            (pg_sys::VARCHAROID, -1, 14, false),
            (pg_sys::BPCHAROID, 14, 24, false),
            (pg_sys::BPCHAROID, 14, -1, true),
            (pg_sys::TIMESTAMPOID, 3, 0, false),
            (pg_sys::NUMERICOID, numeric(10, 2), numeric(12, 2), true),
            (pg_sys::NUMERICOID, numeric(10, 4), numeric(10, 2), false),
            (pg_sys::NUMERICOID, numeric(10, 2), numeric(12, 4), false),
        ] {
            assert_eq!(keeps_values(type_oid.to_u32(), before, after), keeps, "{type_oid:?}");
        }
    }
}
