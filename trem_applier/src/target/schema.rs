//! The target's tables: whether they can take the task, their creation, and what comes after a copy
//! (key, indexes, statistics).
//!
//! Checks write nothing and find everything at once. Creation happens in the transaction that makes
//! the task's first record, so either all of it is there or none.

use std::collections::HashMap;

use postgres_protocol::escape::escape_identifier;
use trem_wire::definition::{DefinedColumn, DefinedTable, Definition, TargetTables};

use super::quote_table;
use crate::check::Finding;
use crate::connect::Client;
use crate::error::{Error, Result};

/// Schema and name of a table on the target.
pub type Name = (String, String);

/// Where a table of the definition belongs.
pub fn name_of(table: &DefinedTable) -> Name {
    (table.target_schema.clone(), table.target_name.clone())
}

/// Whether there is anything of that name.
pub async fn exists(client: &Client, name: &Name) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n
                                  ON n.oid = c.relnamespace
                              WHERE n.nspname = $1 AND c.relname = $2)";
    Ok(client.query_one(sql, &[&name.0, &name.1]).await?.get(0))
}

/// A table that is already there, as the target's catalog has it.
struct Existing {
    oid: u32,
    kind: String,
    columns: HashMap<String, ExistingColumn>,
}

struct ExistingColumn {
    type_name: String,
    generated: bool,
    /// A row that leaves it out is refused.
    required: bool,
}

/// Everything that keeps `tables` from being loaded here. `own`: target tables with rows of this
/// task, which may be emptied.
pub async fn check(
    client: &Client,
    definition: &Definition,
    tables: &[&DefinedTable],
    own: &[Name],
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for table in tables {
        let name = quote_table(&table.target_schema, &table.target_name);
        match find(client, table).await? {
            Some(existing) => {
                let must_be_empty = definition.mode.has_full_load()
                    && definition.options.target_tables == TargetTables::Create
                    && !own.contains(&name_of(table));
                check_existing(client, table, &existing, must_be_empty, &mut findings).await?;
            }
            None if definition.options.target_tables == TargetTables::Keep
                || !definition.mode.has_full_load() =>
            {
                findings.push(
                    Finding::error(&name, "target_table", "the table is not on the target").hint(
                        "Create it, or set the task's option target_tables to create and its \
                         mode to one with a full load.",
                    ),
                );
            }
            None => check_creation(client, table, &name, &mut findings).await?,
        }
    }
    Ok(findings)
}

async fn find(client: &Client, table: &DefinedTable) -> Result<Option<Existing>> {
    let sql = "SELECT c.oid, c.relkind::text FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2";
    let Some(row) = client.query_opt(sql, &[&table.target_schema, &table.target_name]).await?
    else {
        return Ok(None);
    };
    let (oid, kind): (u32, String) = (row.get(0), row.get(1));
    let sql = "SELECT attname, format_type(atttypid, atttypmod), attgenerated <> '',
                      attnotnull AND NOT atthasdef AND attidentity = ''
               FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";
    let columns = client.query(sql, &[&oid]).await?;
    let columns = columns.iter().map(|row| {
        let column =
            ExistingColumn { type_name: row.get(1), generated: row.get(2), required: row.get(3) };
        (row.get(0), column)
    });
    Ok(Some(Existing { oid, kind, columns: columns.collect() }))
}

async fn check_existing(
    client: &Client,
    table: &DefinedTable,
    existing: &Existing,
    must_be_empty: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let name = &quote_table(&table.target_schema, &table.target_name);
    if !matches!(existing.kind.as_str(), "r" | "p") {
        let message = "the name is taken by something that is not a table";
        findings.push(
            Finding::error(name, "target_table", message)
                .hint("Choose another name with trem.rename_table."),
        );
        return Ok(());
    }
    check_columns(table, existing, name, findings);
    let (missing, role) = missing_rights(client, existing.oid).await?;
    if !missing.is_empty() {
        let message = format!("the target endpoint's role lacks {missing} on the table");
        findings.push(
            Finding::error(name, "target_rights", message)
                .hint(format!("GRANT {missing} ON {name} TO {role};")),
        );
        return Ok(());
    }
    let sql = format!("SELECT EXISTS (SELECT FROM {name})");
    if must_be_empty && client.query_one(&sql, &[]).await?.get(0) {
        let hint = format!(
            "On the target: TRUNCATE {name}; Or set the task's option target_tables to truncate \
             (empties it) or keep (adds to it)."
        );
        findings.push(Finding::error(name, "target_rows", "the target table has rows").hint(hint));
    }
    Ok(())
}

/// The rights on a table that this role lacks, and the role.
async fn missing_rights(client: &Client, oid: u32) -> Result<(String, String)> {
    let sql = "SELECT coalesce(string_agg(p, ', '), ''), quote_ident(current_user)
               FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
               WHERE NOT has_table_privilege($1::oid, p)";
    let row = client.query_one(sql, &[&oid]).await?;
    Ok((row.get(0), row.get(1)))
}

fn check_columns(
    table: &DefinedTable,
    existing: &Existing,
    name: &str,
    findings: &mut Vec<Finding>,
) {
    for column in &table.columns {
        if let Some((message, remedy)) = column_differs(column, existing) {
            let remedy = match remedy {
                Some(remedy) => format!("On the target: ALTER TABLE {name} {remedy}; or drop"),
                None => "Alter the target table, or drop".to_owned(),
            };
            findings.push(
                Finding::error(name, "target_columns", message).hint(format!(
                    "{remedy} it so that it is created; or change the task's rules."
                )),
            );
        }
    }
    let unknown = existing.columns.iter().filter(|(name, column)| {
        column.required && !table.columns.iter().any(|defined| defined.name == **name)
    });
    for (column, _) in unknown {
        let message =
            format!("column \"{column}\" must have a value, and the task has none for it");
        findings.push(
            Finding::error(name, "target_columns", message)
                .hint("Drop the column's NOT NULL, or give it a default."),
        );
    }
}

/// What is wrong with a column on the target, and the clause of ALTER TABLE that mends it.
fn column_differs(column: &DefinedColumn, existing: &Existing) -> Option<(String, Option<String>)> {
    let DefinedColumn { name, type_name, .. } = column;
    let quoted = escape_identifier(name);
    match existing.columns.get(name) {
        None => Some((
            format!("column \"{name}\" ({type_name}) is missing on the target"),
            Some(format!("ADD COLUMN {quoted} {type_name}")),
        )),
        Some(there) if there.generated => Some((
            format!("column \"{name}\" is generated on the target, so it takes no values"),
            Some(format!("ALTER COLUMN {quoted} DROP EXPRESSION")),
        )),
        Some(there) if there.type_name != *type_name => Some((
            format!(
                "column \"{name}\" is {} on the target and {type_name} in the task",
                there.type_name
            ),
            None,
        )),
        Some(_) => None,
    }
}

async fn check_creation(
    client: &Client,
    table: &DefinedTable,
    name: &str,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let sql = "SELECT CASE WHEN to_regnamespace(quote_ident($1)) IS NULL
                   THEN has_database_privilege(current_database(), 'CREATE')
                   ELSE has_schema_privilege($1, 'CREATE') AND has_schema_privilege($1, 'USAGE')
               END,
               CASE WHEN to_regnamespace(quote_ident($1)) IS NULL
                   THEN format('GRANT CREATE ON DATABASE %I TO %I;', current_database(),
                               current_user)
                   ELSE format('GRANT CREATE, USAGE ON SCHEMA %I TO %I;', $1::text, current_user)
               END";
    let row = client.query_one(sql, &[&table.target_schema]).await?;
    if !row.get::<_, bool>(0) {
        let message = "the target endpoint's role may not create the table";
        let grant: String = row.get(1);
        findings.push(Finding::error(name, "target_rights", message).hint(grant));
    }
    Ok(())
}

/// Creates types, schemas and tables that are not there.
pub async fn create(
    client: &Client,
    definition: &Definition,
    tables: &[&DefinedTable],
) -> Result<()> {
    for ty in &definition.types {
        let sql = "SELECT to_regtype($1) IS NOT NULL";
        if client.query_one(sql, &[&ty.name]).await?.get(0) {
            continue;
        }
        create_schema(client, &ty.schema).await?;
        let result = client.batch_execute(&ty.create_statement).await;
        result.map_err(|error| {
            Error::from(error).context(format!("creating type {} on the target", ty.name))
        })?;
    }
    for table in tables {
        if find(client, table).await?.is_some() {
            continue;
        }
        create_schema(client, &table.target_schema).await?;
        let name = quote_table(&table.target_schema, &table.target_name);
        let result = client.batch_execute(&table.create_statement).await;
        result.map_err(|error| {
            Error::from(error).context(format!("creating table {name} on the target"))
        })?;
    }
    Ok(())
}

async fn create_schema(client: &Client, schema: &str) -> Result<()> {
    let sql = "SELECT to_regnamespace(quote_ident($1)) IS NULL";
    if client.query_one(sql, &[&schema]).await?.get(0) {
        let sql = format!("CREATE SCHEMA {}", escape_identifier(schema));
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// Builds the key and the indexes that the table does not have yet. An index whose name is taken,
/// by one of a table that had this one's name before say, gets a name of its own.
pub async fn create_indexes(client: &Client, table: &DefinedTable) -> Result<()> {
    let name = quote_table(&table.target_schema, &table.target_name);
    for index in &table.index_statements {
        let other = other_name(&index.name, table.oid);
        let has = match index.key {
            true => has_key(client, &name, table).await?,
            false => has_index(client, &name, &[&index.name, &other]).await?,
        };
        if has {
            continue;
        }
        let taken = exists(client, &(table.target_schema.clone(), index.name.clone())).await?;
        let statement = match taken {
            true => renamed(&index.create_statement, &index.name, &other),
            false => index.create_statement.clone(),
        };
        client.batch_execute(&statement).await.map_err(|error| {
            Error::from(error).context(format!("creating index \"{}\" on {name}", index.name))
        })?;
    }
    Ok(())
}

/// `<name>_<oid of the source table>`, cut to what PostgreSQL keeps.
fn other_name(name: &str, oid: u32) -> String {
    const NAME_BYTES_MAX: usize = 63;
    let suffix = format!("_{oid}");
    let mut end = name.len().min(NAME_BYTES_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// The statement with another name for its index: what follows the one of these words.
fn renamed(statement: &str, name: &str, other: &str) -> String {
    let (name, other) = (escape_identifier(name), escape_identifier(other));
    for words in [" ADD CONSTRAINT ", "INDEX "] {
        let before = format!("{words}{name} ");
        if let Some(at) = statement.find(&before) {
            let rest = &statement[at + before.len()..];
            return format!("{}{words}{other} {rest}", &statement[..at]);
        }
    }
    statement.to_owned()
}

async fn has_index(client: &Client, table: &str, names: &[&str]) -> Result<bool> {
    let sql = "SELECT EXISTS (
                   SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                   WHERE i.indrelid = $1::text::regclass AND c.relname = ANY ($2))";
    Ok(client.query_one(sql, &[&table, &names]).await?.get(0))
}

/// Whether some unique index stands on exactly the key columns.
async fn has_key(client: &Client, name: &str, table: &DefinedTable) -> Result<bool> {
    let sql = "SELECT EXISTS (
                   SELECT FROM pg_index i
                   WHERE i.indrelid = $1::text::regclass AND i.indisunique AND i.indimmediate
                     AND i.indpred IS NULL AND i.indexprs IS NULL
                     AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\")
                          FROM pg_attribute a
                          WHERE a.attrelid = i.indrelid
                            AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) = $2)";
    let mut key: Vec<&str> =
        table.columns.iter().filter(|column| column.key).map(|c| c.name.as_str()).collect();
    key.sort_unstable();
    Ok(client.query_one(sql, &[&name, &key]).await?.get(0))
}

/// `COPY … FROM STDIN` for the table's columns, in the definition's order.
pub fn copy_statement(table: &DefinedTable) -> String {
    let columns: Vec<_> = table.columns.iter().map(|c| escape_identifier(&c.name)).collect();
    let format = match table.row_format {
        trem_wire::definition::DefinedRowFormat::Binary => "binary",
        trem_wire::definition::DefinedRowFormat::Text => "text",
    };
    let name = quote_table(&table.target_schema, &table.target_name);
    format!("COPY {name} ({}) FROM STDIN (FORMAT {format})", columns.join(", "))
}

/// As [`check`], leaving out tables that are loaded already: for `trem-applier check`.
pub async fn check_new(
    client: &Client,
    definition: &Definition,
    tables: &[&DefinedTable],
) -> Result<Vec<Finding>> {
    let known = "SELECT to_regclass('trem_target.table_state') IS NOT NULL";
    if !client.query_one(known, &[]).await?.get::<_, bool>(0) {
        return check(client, definition, tables, &[]).await;
    }
    let records = super::progress::read_tables(client, &definition.task_id).await?;
    let is_new =
        |table: &&&DefinedTable| !records.iter().any(|record| record.source_oid == table.oid);
    let new: Vec<_> = tables.iter().filter(is_new).copied().collect();
    check(client, definition, &new, &[]).await
}

#[cfg(test)]
mod tests {
    use super::{other_name, renamed};

    #[test]
    fn an_index_gets_another_name_and_nothing_else_does() {
        let primary = "ALTER TABLE \"s\".\"d_pkey\" ADD CONSTRAINT \"d_pkey\" PRIMARY KEY (\"id\")";
        assert_eq!(
            renamed(primary, "d_pkey", "d_pkey_7"),
            "ALTER TABLE \"s\".\"d_pkey\" ADD CONSTRAINT \"d_pkey_7\" PRIMARY KEY (\"id\")"
        );
        let unique = "CREATE UNIQUE INDEX \"i\" ON \"s\".\"i\" USING \"btree\" (\"i\")";
        assert_eq!(
            renamed(unique, "i", "i_7"),
            "CREATE UNIQUE INDEX \"i_7\" ON \"s\".\"i\" USING \"btree\" (\"i\")"
        );
        assert_eq!(other_name("d_pkey", 7), "d_pkey_7");
        assert_eq!(other_name(&"é".repeat(40), 16_400).len(), 62);
    }
}
