//! Names: how users write tables and patterns, and how statements and messages quote them.

use serde::Deserialize;

use super::spi;
use crate::error::Error;

/// The longest name PostgreSQL keeps, in bytes (NAMEDATALEN - 1).
pub(crate) const NAME_BYTES_MAX: usize = 63;

const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"];

/// A table argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TableName {
    Table {
        schema: String,
        name: String,
    },
    /// `schema.*`: every table of the schema.
    Pattern {
        schema: String,
    },
}

const HINT: &str = "Write 'schema.table', or 'schema.*' for all tables of a schema; names in \
                    double quotes keep their case.";

/// Reads a table argument with PostgreSQL's own rules for identifiers (folded unless quoted).
pub(crate) fn parse(text: &str) -> Result<TableName, Error> {
    let wrong = || Error::invalid(format!("\"{text}\" is not the name of a table"), HINT);
    if text.trim().starts_with('*') {
        return Err(wrong());
    }
    if let Some(schema) = text.trim().strip_suffix(".*") {
        return match <[String; 1]>::try_from(parts(schema)?) {
            Ok([schema]) => Ok(TableName::Pattern { schema }),
            Err(_) => Err(wrong()),
        };
    }
    match <[String; 2]>::try_from(parts(text)?) {
        Ok([schema, name]) => Ok(TableName::Table { schema, name }),
        Err(_) => Err(wrong()),
    }
}

/// [`parse`] where a pattern makes no sense.
pub(crate) fn parse_table(text: &str) -> Result<(String, String), Error> {
    match parse(text)? {
        TableName::Table { schema, name } => Ok((schema, name)),
        TableName::Pattern { .. } => Err(Error::invalid(
            format!("\"{text}\" is a pattern, and one table is needed here"),
            "Write 'schema.table'.",
        )),
    }
}

fn parts(text: &str) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Parsed {
        parts: Vec<String>,
    }
    let parsed = spi::row::<Parsed>("SELECT parse_ident($1) AS parts", &[text.into()])?;
    Ok(parsed.map(|parsed| parsed.parts).unwrap_or_default())
}

/// Schemas that are not for tables of users.
pub(crate) fn is_reserved_schema(schema: &str) -> bool {
    schema.starts_with("pg_")
        || ["information_schema", "trem", "trem_read", "trem_target"].contains(&schema)
}

/// Checks a name that the target is to have.
pub(crate) fn check_new(what: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid(
            format!("the new name of the {what} is empty"),
            "Choose a name with a character at least.",
        ));
    }
    if what == "column" && SYSTEM_COLUMNS.contains(&name) {
        return Err(Error::invalid(
            format!("a column cannot be named \"{name}\", which is a system column"),
            "Choose another name.",
        ));
    }
    if what == "column" && name == "trem_ctid" {
        return Err(Error::invalid(
            "a column cannot be named \"trem_ctid\", which TREM's views use",
            "Choose another name.",
        ));
    }
    if what == "schema" && is_reserved_schema(name) {
        return Err(Error::invalid(
            format!("the target schema \"{name}\" is reserved"),
            "Choose another schema: this one belongs to the system or to TREM.",
        ));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(
            format!("the new name of the {what} is longer than {NAME_BYTES_MAX} bytes"),
            "PostgreSQL would cut it; choose a shorter one.",
        ));
    }
    Ok(())
}

/// A name for a statement: always quoted, so that no version's keywords matter.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A qualified name for a statement.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// A qualified name for a person: quoted where it must be, as the server itself decides that
/// (`%I`): what one side writes the other compares.
pub(crate) fn display(schema: &str, name: &str) -> String {
    pgrx::spi::quote_qualified_identifier(schema, name)
}

/// A string constant for a statement, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''").replace('\\', "\\\\"));
    if text.contains('\\') {
        format!("E{quoted}")
    } else {
        quoted
    }
}

/// `name` cut to what PostgreSQL keeps, with `suffix` at its end.
pub(crate) fn with_suffix(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(NAME_BYTES_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// The name of a task or endpoint; a task's slot is named after it, hence the alphabet.
pub(crate) fn check_object(what: &str, name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=50).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("\"{name}\" is not a valid {what} name"),
        "Names have 1 to 50 lower case letters, digits and underscores.",
    ))
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::*;

    #[pg_test]
    fn names_for_people_are_quoted_where_they_must_be() {
        assert_eq!(display("app", "order"), "app.\"order\"");
        assert_eq!(display("app", "orders_2"), "app.orders_2");
        assert_eq!(display("Ordem de Serviço", "it's"), "\"Ordem de Serviço\".\"it's\"");
        assert_eq!(display("2", "a\"b"), "\"2\".\"a\"\"b\"");
    }

    #[test]
    fn a_literal_is_the_same_with_and_without_standard_strings() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b'"), "E'a\\\\b'''");
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = "ç".repeat(40);
        let cut = with_suffix(&long, "_12345");
        assert!(cut.len() <= NAME_BYTES_MAX && cut.ends_with("_12345"));
    }

    #[pg_test]
    fn table_arguments_are_sql_identifiers() {
        let table = |schema: &str, name: &str| {
            Some(TableName::Table { schema: schema.to_owned(), name: name.to_owned() })
        };
        let pattern = |schema: &str| Some(TableName::Pattern { schema: schema.to_owned() });
        for (text, expected) in [
            ("app.orders", table("app", "orders")),
            (" App . ORDERS ", table("app", "orders")),
            (r#""App"."it's""#, table("App", "it's")),
            (r#""a.b"."c""d""#, table("a.b", r#"c"d"#)),
            (r#"app."x.*""#, table("app", "x.*")),
            ("app.*", pattern("app")),
            (r#""Ordem de Serviço".*"#, pattern("Ordem de Serviço")),
            ("orders", None),
            ("a.b.c", None),
            ("a.b.*", None),
            ("*.*", None),
            ("*", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}
