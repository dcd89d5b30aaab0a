//! What the rules make of one table: where it goes, which rows, which columns it has there, under
//! which names and of which types, and what their values are computed from.
//!
//! Composes text only; whether that text is right, [`super::expression`] finds out.

use serde_json::{json, Map, Value};
use trem_wire::definition::DefinedExpression;

use super::compose;
use super::draft::{Rule, RuleKind};
use super::name;
use super::table::{Column, Table};
use crate::error::Error;

pub(crate) struct Shape {
    pub table: Table,
    pub target_schema: String,
    pub target_name: String,
    pub columns: Vec<ShapedColumn>,
    /// Which rows the target has; `None`: all.
    pub filter: Option<Filter>,
    pub load_generation: i64,
    /// What the rules do here, to see at the next publish whether that changed. It holds no name
    /// that a rule did not give: a rename on the source is not a change of rules.
    pub rules: Value,
    hides_values: bool,
}

pub(crate) struct ShapedColumn {
    /// `None`: a column that only the target has.
    pub source: Option<Column>,
    /// Name on the target.
    pub name: String,
    pub key: bool,
    pub output: Output,
    /// `None`: the source column is passed through.
    pub computed: Option<Computed>,
}

/// What the column is on the target.
pub(crate) struct Output {
    pub type_oid: u32,
    pub type_modifier: i32,
    pub type_name: String,
    /// Quoted; `None`: the type's own.
    pub collation: Option<String>,
    pub collation_is_users: bool,
    pub not_null: bool,
    pub identity: bool,
}

pub(crate) struct Computed {
    /// Complete, with the cast to the column's type.
    pub expression: DefinedExpression,
    /// What the rule says, before the cast; `None`: only the type changes.
    pub written: Option<String>,
    /// Values that differ stay different, and none becomes null.
    pub keeps_values: bool,
    pub guard: Option<Guard>,
}

pub(crate) struct Filter {
    pub expression: DefinedExpression,
    /// What the rule says.
    pub written: String,
    pub guard: Option<Guard>,
}

/// How a view evaluates an expression whose errors could tell of values, or which is not made of
/// built-in types and functions alone: `trem.computed`. Set when the expression is checked.
#[derive(Clone)]
pub(crate) struct Guard {
    /// The type of the result, and its name.
    pub output: u32,
    pub output_name: String,
    /// What that is made of, where it is a domain.
    pub base_type_name: String,
    /// The columns that it reads.
    pub attnums: Vec<i16>,
    /// The result's, as SQL names it; `None`: it has none.
    pub collation: Option<String>,
}

impl ShapedColumn {
    /// Attribute number in the source table; 0 if only the target has the column.
    pub(crate) fn attnum(&self) -> i16 {
        self.source.as_ref().map_or(0, |source| source.attnum)
    }

    /// Name in the source table; empty if only the target has the column.
    pub(crate) fn source_name(&self) -> &str {
        self.source.as_ref().map_or("", |source| &source.name)
    }

    /// The name for messages about the source.
    pub(crate) fn display(&self) -> &str {
        self.source.as_ref().map_or(&self.name, |source| &source.name)
    }

    pub(crate) fn changes_type(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.type_oid != self.output.type_oid)
    }

    /// Two rows may have the same value on the target although they differ on the source.
    pub(crate) fn may_merge_values(&self) -> bool {
        self.computed.as_ref().is_some_and(|computed| !computed.keeps_values)
    }
}

impl Shape {
    pub(crate) fn target_display(&self) -> String {
        name::display(&self.target_schema, &self.target_name)
    }

    /// What the target has of a source column; `None` when it is excluded.
    pub(crate) fn column(&self, attnum: i16) -> Option<&ShapedColumn> {
        self.columns.iter().find(|column| column.attnum() == attnum)
    }

    /// The types of the target's columns.
    pub(crate) fn types(&self) -> impl Iterator<Item = u32> + '_ {
        self.columns.iter().map(|column| column.output.type_oid)
    }

    /// The views have a column of their own, which no column may hide.
    pub(crate) fn target_column_reserved(&self) -> bool {
        self.columns.iter().any(|column| column.name == "trem_ctid")
    }

    /// Something of the table does not leave the source: a column, or its values as they are.
    pub(crate) fn hides_values(&self) -> bool {
        self.hides_values
    }

    pub(crate) fn is_computed(&self) -> bool {
        self.filter.is_some() || self.columns.iter().any(|column| column.computed.is_some())
    }

    /// The statement that reads the rows as the target gets them, for people. A table with
    /// inheritance children is read without them: each of those is a table of its own.
    pub(crate) fn select(&self) -> String {
        let columns = self.columns.iter().map(|column| {
            let value = match &column.computed {
                Some(computed) => computed.expression.sql.clone(),
                None => name::quoted(column.source_name()),
            };
            format!("{value} AS {}", name::quoted(&column.name))
        });
        let only = if self.table.is_partitioned() { "" } else { "ONLY " };
        let table = name::qualified(&self.table.schema, &self.table.name);
        let mut select =
            format!("SELECT {} FROM {only}{table}", columns.collect::<Vec<_>>().join(", "));
        if let Some(filter) = &self.filter {
            select.push_str(&format!(" WHERE {}", filter.expression.sql));
        }
        select
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
    let filter = of_kind(RuleKind::SetFilter).find(of_table);
    let mut shaped = Shaped::default();
    for column in &table.columns {
        shaped.add(&table, column, rules)?;
    }
    for rule in of_kind(RuleKind::AddColumn).filter(of_table) {
        let name = rule.column_name.as_deref().unwrap_or_default();
        shaped.computed.insert(format!("+ {name}"), rule.arguments.clone());
        shaped.columns.extend(compose::created(rule));
    }
    Ok(Shape {
        target_schema: new_schema.unwrap_or(&table.schema).to_owned(),
        target_name: new_name.unwrap_or(&table.name).to_owned(),
        filter: filter.and_then(compose::filter),
        rules: shaped.effect(new_schema, new_name, filter),
        hides_values: shaped.hides_values(),
        columns: shaped.columns,
        load_generation,
        table,
    })
}

#[derive(Default)]
struct Shaped {
    columns: Vec<ShapedColumn>,
    renamed: Map<String, Value>,
    excluded: Vec<i16>,
    /// What rules say about values and types, by column.
    computed: Map<String, Value>,
    masks: bool,
}

impl Shaped {
    fn add(&mut self, table: &Table, column: &Column, rules: &[Rule]) -> Result<(), Error> {
        let rule = |kind: RuleKind| {
            rules.iter().find(|rule| {
                rule.kind == kind
                    && rule.table_oid == Some(table.oid)
                    && rule.attnum == Some(column.attnum)
            })
        };
        if rule(RuleKind::ExcludeColumn).is_some() {
            self.excluded.push(column.attnum);
            return Ok(());
        }
        let new_name = rule(RuleKind::RenameColumn).map(Rule::new_name).transpose()?;
        if let Some(new_name) = new_name {
            self.renamed.insert(column.attnum.to_string(), json!(new_name));
        }
        let (new_type, value) = (rule(RuleKind::ChangeType), rule(RuleKind::SetValue));
        for rule in new_type.into_iter().chain(value) {
            let key = format!("{} {}", column.attnum, rule.kind.as_str());
            self.computed.insert(key, rule.arguments.clone());
            self.masks |= rule.expression().is_some();
        }
        let key = table.is_key(column.attnum);
        let (output, computed) = compose::column(column, key, new_type, value);
        self.columns.push(ShapedColumn {
            source: Some(column.clone()),
            name: new_name.unwrap_or(&column.name).to_owned(),
            key,
            output,
            computed,
        });
        Ok(())
    }

    fn hides_values(&self) -> bool {
        self.masks || !self.excluded.is_empty()
    }

    fn effect(
        &self,
        new_schema: Option<&str>,
        new_name: Option<&str>,
        filter: Option<&Rule>,
    ) -> Value {
        let mut effect = json!({
            "rename_schema": new_schema,
            "rename_table": new_name,
            "rename_column": self.renamed,
            "exclude_column": self.excluded,
        });
        // Only where there is any, so that what was published before such rules came still counts.
        if let Some(filter) = filter {
            effect["set_filter"] = json!(filter.expression());
        }
        if !self.computed.is_empty() {
            effect["computed"] = Value::Object(self.computed.clone());
        }
        effect
    }
}
