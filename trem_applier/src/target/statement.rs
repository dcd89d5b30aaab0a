//! The SQL that applies a change, for one relation. Pure text: identifiers always quoted, values
//! always parameters, in the order that [`session`](super::session) binds them.

use postgres_protocol::escape::escape_identifier;
use trem_wire::message::{Relation, RowFormat};

pub(crate) fn quote_table(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}

fn table(relation: &Relation) -> String {
    quote_table(&relation.target_schema, &relation.target_name)
}

fn column(relation: &Relation, at: usize) -> String {
    escape_identifier(&relation.columns[at].name)
}

fn all_columns(relation: &Relation) -> String {
    let names: Vec<_> = (0..relation.columns.len()).map(|at| column(relation, at)).collect();
    names.join(", ")
}

fn parameters(count: usize) -> String {
    let parameters: Vec<_> = (1..=count).map(|n| format!("${n}")).collect();
    parameters.join(", ")
}

/// `COPY … FROM STDIN` for whole rows.
pub(super) fn copy(relation: &Relation) -> String {
    let format = match relation.format {
        RowFormat::Binary => "binary",
        RowFormat::Text => "text",
    };
    let (table, columns) = (table(relation), all_columns(relation));
    format!("COPY {table} ({columns}) FROM STDIN (FORMAT {format})")
}

/// Parameters: all columns. OVERRIDING lets values into GENERATED ALWAYS identity columns of tables
/// that someone else created.
pub(super) fn insert(relation: &Relation) -> String {
    let (table, columns) = (table(relation), all_columns(relation));
    let values = parameters(relation.columns.len());
    format!("INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})")
}

/// Parameters: all columns. The key must be there, with a unique index on the target.
pub(super) fn upsert(relation: &Relation) -> String {
    format!("{} {}", insert(relation), on_conflict(relation))
}

fn on_conflict(relation: &Relation) -> String {
    let key: Vec<_> = relation.key().map(|at| column(relation, at)).collect();
    let assignments: Vec<_> = (0..relation.columns.len())
        .filter(|&at| !relation.columns[at].key)
        .map(|at| format!("{0} = EXCLUDED.{0}", column(relation, at)))
        .collect();
    let action = match assignments.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", assignments.join(", ")),
    };
    format!("ON CONFLICT ({}) DO {action}", key.join(", "))
}

/// Parameters: the values of `columns`, then the key of the row that may keep them.
pub(super) fn evict(relation: &Relation, columns: &[usize]) -> String {
    let held: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(n, &at)| format!("t.{} = ${}", column(relation, at), n + 1))
        .collect();
    let (held, row_is) = (held.join(" AND "), row_is(relation, columns.len() + 1));
    format!("DELETE FROM {} AS t WHERE {held} AND NOT ({row_is})", table(relation))
}

/// Which columns an UPDATE sets: those that are `present`, the key only if it `moves`.
pub(super) fn assigned_columns<'a>(
    relation: &'a Relation,
    moves: bool,
    present: impl Fn(usize) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    (0..relation.columns.len())
        .filter(move |&at| present(at) && (moves || !relation.columns[at].key))
}

/// Parameters: the assigned columns, then those that find the row (see [`row_is`]).
pub(super) fn update(relation: &Relation, assigned: &[usize]) -> String {
    let assignments: Vec<_> = assigned
        .iter()
        .enumerate()
        .map(|(n, &at)| format!("{} = ${}", column(relation, at), n + 1))
        .collect();
    let row_is = row_is(relation, assigned.len() + 1);
    format!("UPDATE {} AS t SET {} WHERE {row_is}", table(relation), assignments.join(", "))
}

/// Parameters: those that find the row.
pub(super) fn delete(relation: &Relation) -> String {
    format!("DELETE FROM {} AS t WHERE {}", table(relation), row_is(relation, 1))
}

/// Parameter: an array of the table's row type (see [`layout`](super::layout)). Finds the rows by
/// their keys.
pub(super) fn update_rows(relation: &Relation, assigned: &[usize]) -> String {
    let assignments: Vec<_> =
        assigned.iter().map(|&at| format!("{0} = v.{0}", column(relation, at))).collect();
    let (table, rows, keys) = (table(relation), rows(relation), keys_match(relation));
    format!("UPDATE {table} AS t SET {} FROM {rows} WHERE {keys}", assignments.join(", "))
}

/// Parameter: the same, with nothing but the keys.
pub(super) fn delete_rows(relation: &Relation) -> String {
    let (table, rows, keys) = (table(relation), rows(relation), keys_match(relation));
    format!("DELETE FROM {table} AS t USING {rows} WHERE {keys}")
}

/// Parameter: the same, whole rows.
pub(super) fn upsert_rows(relation: &Relation) -> String {
    let (table, columns, rows) = (table(relation), all_columns(relation), rows(relation));
    let values: Vec<_> =
        (0..relation.columns.len()).map(|at| format!("v.{}", column(relation, at))).collect();
    format!(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {} FROM {rows} {}",
        values.join(", "),
        on_conflict(relation)
    )
}

fn rows(relation: &Relation) -> String {
    format!("unnest($1::{}[]) AS v", table(relation))
}

fn keys_match(relation: &Relation) -> String {
    let conditions: Vec<_> =
        relation.key().map(|at| format!("t.{0} = v.{0}", column(relation, at))).collect();
    conditions.join(" AND ")
}

/// Finds one row: by the key columns; without a key by the image of the whole row, and of several
/// equal ones any.
// Cast to record, the rows are compared by `*=` as wholes; bare rows would be compared column by
// column, and most types have no such operator.
fn row_is(relation: &Relation, first_parameter: usize) -> String {
    if relation.has_key() {
        let conditions: Vec<_> = relation
            .key()
            .enumerate()
            .map(|(n, at)| format!("t.{} = ${}", column(relation, at), first_parameter + n))
            .collect();
        return conditions.join(" AND ");
    }
    let (mut row, mut values) = (Vec::new(), Vec::new());
    for (at, described) in relation.columns.iter().enumerate() {
        row.push(format!("m.{}", column(relation, at)));
        values.push(format!("${}::{}", first_parameter + at, described.type_name));
    }
    format!(
        "t.ctid = (SELECT m.ctid FROM {} AS m WHERE ROW({})::record \
         OPERATOR(pg_catalog.*=) ROW({})::record LIMIT 1)",
        table(relation),
        row.join(", "),
        values.join(", ")
    )
}

pub(super) fn truncate<'a>(relations: impl Iterator<Item = &'a Relation>) -> String {
    let tables: Vec<_> = relations.map(table).collect();
    format!("TRUNCATE {}", tables.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trem_wire::message::Column;

    fn relation(columns: &[(&str, bool)]) -> Relation {
        Relation {
            oid: 1,
            source_schema: "s".to_owned(),
            source_name: "t".to_owned(),
            target_schema: "Ordem de Serviço".to_owned(),
            target_name: "it's \"quoted\"".to_owned(),
            format: RowFormat::Binary,
            filtered: false,
            columns: columns
                .iter()
                .map(|&(name, key)| Column {
                    attnum: 1,
                    name: name.to_owned(),
                    type_oid: 25,
                    type_name: "text".to_owned(),
                    key,
                })
                .collect(),
        }
    }

    const TABLE: &str = r#""Ordem de Serviço"."it's ""quoted""""#;

    #[test]
    fn a_row_is_found_by_its_key() {
        let relation = relation(&[("b", false), ("K", true), ("j", true)]);
        let assigned: Vec<_> = assigned_columns(&relation, false, |_| true).collect();
        assert_eq!(
            update(&relation, &assigned),
            format!(r#"UPDATE {TABLE} AS t SET "b" = $1 WHERE t."K" = $2 AND t."j" = $3"#)
        );
        assert_eq!(
            delete(&relation),
            format!(r#"DELETE FROM {TABLE} AS t WHERE t."K" = $1 AND t."j" = $2"#)
        );
    }

    #[test]
    fn a_moving_key_is_assigned_and_unchanged_columns_are_not() {
        let relation = relation(&[("k", true), ("big", false), ("v", false)]);
        let assigned: Vec<_> = assigned_columns(&relation, true, |at| at != 1).collect();
        assert_eq!(
            update(&relation, &assigned),
            format!(r#"UPDATE {TABLE} AS t SET "k" = $1, "v" = $2 WHERE t."k" = $3"#)
        );
    }

    #[test]
    fn without_a_key_one_row_is_found_by_its_image() {
        let relation = relation(&[("a", false), ("b", false)]);
        assert_eq!(
            delete(&relation),
            format!(
                "DELETE FROM {TABLE} AS t WHERE t.ctid = (SELECT m.ctid FROM {TABLE} AS m WHERE \
                 ROW(m.\"a\", m.\"b\")::record OPERATOR(pg_catalog.*=) \
                 ROW($1::text, $2::text)::record LIMIT 1)"
            )
        );
    }
}
