//! What the rules make of one table: where it goes, which columns it has there, under which names.

use serde_json::{json, Value};

use super::draft::{Rule, RuleKind};
use super::name;
use super::table::{Column, Table};
use crate::error::Error;

pub(crate) struct Shape {
    pub table: Table,
    pub target_schema: String,
    pub target_name: String,
    pub columns: Vec<ShapedColumn>,
    pub load_generation: i64,
    /// What the rules do here, to see at the next publish whether that changed. It holds no name
    /// that a rule did not give: a rename on the source is not a change of rules.
    pub rules: Value,
}

pub(crate) struct ShapedColumn {
    pub source: Column,
    /// Name on the target.
    pub name: String,
    pub key: bool,
}

impl Shape {
    pub(crate) fn target_display(&self) -> String {
        name::display(&self.target_schema, &self.target_name)
    }

    /// Name on the target of a source column; `None` when it is excluded.
    pub(crate) fn target_column(&self, attnum: i16) -> Option<&str> {
        self.columns
            .iter()
            .find(|column| column.source.attnum == attnum)
            .map(|column| column.name.as_str())
    }

    /// The views have a column of their own, which no column may hide.
    pub(crate) fn target_column_reserved(&self) -> bool {
        self.columns.iter().any(|column| column.name == "trem_ctid")
    }

    pub(crate) fn hides_columns(&self) -> bool {
        self.columns.len() < self.table.columns.len()
    }

    /// The statement that reads a relation's rows as the target gets them. A table with inheritance
    /// children is read without them: each of those is a table of its own.
    pub(crate) fn select(&self, schema: &str, relation: &str, with_ctid: bool) -> String {
        let only = if self.table.is_partitioned() && !with_ctid { "" } else { "ONLY " };
        let mut columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let source = name::quoted(&column.source.name);
                format!("{source} AS {}", name::quoted(&column.name))
            })
            .collect();
        if with_ctid {
            columns.push("ctid AS trem_ctid".to_owned());
        }
        format!("SELECT {} FROM {only}{}", columns.join(", "), name::qualified(schema, relation))
    }
}

/// Applies a task's rules to one of its tables.
pub(crate) fn apply(table: Table, rules: &[Rule], load_generation: i64) -> Result<Shape, Error> {
    let of_table = |rule: &&Rule| rule.table_oid == Some(table.oid);
    let of_kind = |kind: RuleKind| rules.iter().filter(move |rule| rule.kind == kind);
    // A rule for the table wins over one for the whole schema.
    let new_schema = of_kind(RuleKind::RenameSchema)
        .find(of_table)
        .or_else(|| {
            of_kind(RuleKind::RenameSchema)
                .find(|rule| rule.schema_name.as_ref() == Some(&table.schema))
        })
        .map(Rule::new_name)
        .transpose()?;
    let new_name = of_kind(RuleKind::RenameTable).find(of_table).map(Rule::new_name).transpose()?;
    let mut columns = Vec::with_capacity(table.columns.len());
    let mut renamed = serde_json::Map::new();
    let mut excluded = Vec::new();
    for column in &table.columns {
        let of_column = |rule: &&Rule| of_table(rule) && rule.attnum == Some(column.attnum);
        if of_kind(RuleKind::ExcludeColumn).any(|rule| of_column(&rule)) {
            excluded.push(column.attnum);
            continue;
        }
        let new =
            of_kind(RuleKind::RenameColumn).find(of_column).map(Rule::new_name).transpose()?;
        if let Some(new) = new {
            renamed.insert(column.attnum.to_string(), json!(new));
        }
        columns.push(ShapedColumn {
            source: column.clone(),
            name: new.unwrap_or(&column.name).to_owned(),
            key: table.is_key(column.attnum),
        });
    }
    Ok(Shape {
        target_schema: new_schema.unwrap_or(&table.schema).to_owned(),
        target_name: new_name.unwrap_or(&table.name).to_owned(),
        rules: json!({
            "rename_schema": new_schema,
            "rename_table": new_name,
            "rename_column": renamed,
            "exclude_column": excluded,
        }),
        columns,
        load_generation,
        table,
    })
}
