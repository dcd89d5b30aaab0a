//! A new rule, held against the other rules and the live table before it is stored.
//!
//! Everything wrong with it is gathered and reported once.

use pgrx::{pg_sys, JsonB};
use serde::Deserialize;
use serde_json::{json, Value};

use super::draft::{Draft, Rule, RuleKind};
use super::expression::{self, fault, Wanted};
use super::shape::{self, Shape};
use super::table::{Column, Table};
use super::{access, name, publish, spi};
use crate::error::Error;
use crate::pg;
use crate::pg::expression::Fault;

/// What a rule is about.
pub(crate) enum Subject {
    Schema(String),
    Table(Table),
    Column(Table, i16),
    /// A column that only the target has.
    NewColumn(Table, String),
}

impl Subject {
    fn table(&self) -> Option<&Table> {
        match self {
            Subject::Schema(_) => None,
            Subject::Table(table) | Subject::Column(table, _) | Subject::NewColumn(table, _) => {
                Some(table)
            }
        }
    }

    fn attnum(&self) -> Option<i16> {
        match self {
            Subject::Column(_, attnum) => Some(*attnum),
            _ => None,
        }
    }

    fn column(&self) -> Option<&Column> {
        self.table()?.column(self.attnum()?)
    }

    fn column_name(&self) -> Option<&str> {
        match self {
            Subject::NewColumn(_, name) => Some(name),
            _ => self.column().map(|column| column.name.as_str()),
        }
    }

    fn display(&self) -> String {
        match self {
            Subject::Schema(schema) => format!("{schema}.*"),
            Subject::Table(table) | Subject::Column(table, _) | Subject::NewColumn(table, _) => {
                table.display()
            }
        }
    }
}

/// A rule about a value, as it was given.
pub(crate) struct Given<'a> {
    pub kind: RuleKind,
    pub subject: Subject,
    pub type_name: Option<&'a str>,
    pub expression: Option<&'a str>,
}

/// Checks a rule about a value and drafts it; gives its id.
pub(crate) fn propose(draft: &Draft, given: Given<'_>) -> Result<i64, Error> {
    let table = given.subject.table().expect("such a rule is about a table").clone();
    access::check_author(&table.display(), table.owner)?;
    let mut faults = clashes(draft, &table, &given)?;
    if let Subject::NewColumn(_, name) = &given.subject {
        faults.extend(name::check_new("column", name).err().map(of_error));
    }
    let (mut arguments, mut new_type) = (json!({}), None);
    if let Some(text) = given.type_name {
        match pg::parse_type(text) {
            Ok((oid, modifier)) => {
                arguments["type_name"] = json!(pg::type_name_with_modifier(oid, modifier));
                arguments["type_modifier"] = json!(modifier);
                new_type = Some(oid);
            }
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(expression) = given.expression {
        arguments["expression"] = json!(expression);
    }
    let what = what(&given, &table);
    let wanted = new_type.map(|oid| (pg_sys::Oid::from(oid), -1));
    let columns = given.expression.map(|text| columns(&table, text, wanted));
    if !faults.is_empty() {
        faults.extend(columns.and_then(Result::err).unwrap_or_default());
        return Err(Error::Faulty { what, faults });
    }
    if let Some(Ok(columns)) = columns {
        arguments["columns"] = columns;
    }
    let rule = rule(&given, arguments.clone(), new_type);
    check_composed(draft, table, rule, what)?;
    store(draft, given.kind, &given.subject, arguments)
}

/// The columns that an expression reads: numbers by name, to see later that they are still those.
fn columns(table: &Table, written: &str, wanted: Wanted) -> Result<Value, Vec<Fault>> {
    let compiled = expression::check_written(table.oid, written, wanted)?;
    let columns = compiled.used.iter().filter_map(|attnum| table.column(*attnum));
    Ok(columns.map(|column| (column.name.clone(), json!(column.attnum))).collect())
}

/// What an error calls the rule.
fn what(given: &Given<'_>, table: &Table) -> String {
    match given.subject.column_name() {
        Some(column) => {
            format!("{} of column \"{column}\" of {}", given.kind.as_str(), table.display())
        }
        None => format!("{} of {}", given.kind.as_str(), table.display()),
    }
}

/// The rule as the draft would have it. It has no id yet.
fn rule(given: &Given<'_>, arguments: Value, type_oid: Option<u32>) -> Rule {
    Rule {
        id: 0,
        kind: given.kind,
        table_oid: given.subject.table().map(|table| table.oid),
        schema_name: None,
        attnum: given.subject.attnum(),
        table_name: given.subject.display(),
        column_name: given.subject.column_name().map(str::to_owned),
        arguments,
        type_oid,
    }
}

/// Composes the table with the rule among the others. What is wrong with rules about other columns
/// is no reason to refuse this one.
fn check_composed(draft: &Draft, table: Table, rule: Rule, what: String) -> Result<(), Error> {
    let attnum = rule.attnum.unwrap_or_default();
    let mut rules: Vec<Rule> = draft.rules.clone();
    if rule.kind == RuleKind::SetFilter {
        rules.retain(|of| of.kind != RuleKind::SetFilter || of.table_oid != rule.table_oid);
    }
    rules.push(rule);
    let mut shape = shape::apply(table, &rules, 1)?;
    let mut findings = expression::check(&mut shape);
    findings.faults.retain(|of| of.rule_id == 0 || (attnum != 0 && of.attnum == attnum));
    let findings = findings.refuse(what)?;
    publish::make_mask_keys(&findings.mask_keys)
}

fn of_error(error: Error) -> Fault {
    Fault { message: error.to_string(), hint: error.hint() }
}

/// Other rules that leave no room for this one.
fn clashes(draft: &Draft, table: &Table, given: &Given<'_>) -> Result<Vec<Fault>, Error> {
    if let Subject::NewColumn(table, name) = &given.subject {
        let shape = shape::apply(table.clone(), &draft.rules, 1)?;
        return Ok(name_taken(&shape, name).into_iter().collect());
    }
    let Some(column) = given.subject.column() else { return Ok(Vec::new()) };
    let found = draft.rules.iter().filter(|rule| {
        rule.table_oid == Some(table.oid)
            && rule.attnum == Some(column.attnum)
            && exclude_each_other((given.kind, given.expression.is_some()), rule)
    });
    let clash = |rule: &Rule| {
        fault(
            format!("it clashes with rule {} ({})", rule.id, rule.kind.as_str()),
            format!("SELECT trem.drop_transformation({});", rule.id),
        )
    };
    Ok(found.map(clash).collect())
}

/// A column has one value and one type, and an excluded one has neither.
fn exclude_each_other((kind, has_expression): (RuleKind, bool), rule: &Rule) -> bool {
    use RuleKind::{ChangeType, ExcludeColumn, SetValue};
    match (kind, rule.kind) {
        (SetValue, SetValue) | (ChangeType, ChangeType) => true,
        (SetValue | ChangeType, ExcludeColumn) | (ExcludeColumn, SetValue | ChangeType) => true,
        (SetValue, ChangeType) => rule.expression().is_some(),
        (ChangeType, SetValue) => has_expression,
        _ => false,
    }
}

/// An error if rules about its value leave no room for a column's exclusion.
pub(crate) fn check_exclusion(draft: &Draft, subject: &Subject) -> Result<(), Error> {
    let Some(table) = subject.table() else { return Ok(()) };
    let given = Given {
        kind: RuleKind::ExcludeColumn,
        subject: Subject::Column(table.clone(), subject.attnum().unwrap_or_default()),
        type_name: None,
        expression: None,
    };
    let faults = clashes(draft, table, &given)?;
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Faulty { what: what(&given, table), faults })
}

fn name_taken(shape: &Shape, name: &str) -> Option<Fault> {
    let taken = shape.columns.iter().find(|column| column.name == name)?;
    let rule = taken.source.is_none().then_some(taken.computed.as_ref()).flatten();
    Some(match rule {
        Some(computed) => fault(
            format!("rule {} (add_column) adds a column of that name", computed.expression.rule_id),
            format!("SELECT trem.drop_transformation({});", computed.expression.rule_id),
        ),
        None => fault(
            format!("the target already has a column named \"{name}\""),
            "Choose another name; trem.set_value gives an existing column another value.",
        ),
    })
}

/// Takes a table's filter away; true if it had one.
pub(crate) fn remove_filter(draft: &Draft, table: &Table) -> Result<bool, Error> {
    let removed = spi::run(
        "DELETE FROM trem.rule
         WHERE task_id = $1::uuid AND kind = 'set_filter' AND table_oid = $2::oid RETURNING id",
        &[draft.task.task_id.as_str().into(), i64::from(table.oid).into()],
    )?;
    Ok(removed > 0)
}

/// Drafts a rule; gives its id. One of the same kind about the same subject gives way.
pub(crate) fn store(
    draft: &Draft,
    kind: RuleKind,
    subject: &Subject,
    arguments: Value,
) -> Result<i64, Error> {
    #[derive(Deserialize)]
    struct Made {
        id: i64,
    }
    let schema = match subject {
        Subject::Schema(schema) => Some(schema.as_str()),
        _ => None,
    };
    let (attnum, column) = (subject.attnum(), subject.column_name());
    let oid = subject.table().map(|table| i64::from(table.oid));
    let task_id = draft.task.task_id.as_str();
    spi::run(
        "DELETE FROM trem.rule
         WHERE task_id = $1::uuid AND kind = $2 AND kind <> 'add_column'
           AND table_oid::oid IS NOT DISTINCT FROM $3::oid
           AND schema_name IS NOT DISTINCT FROM $4 AND attnum IS NOT DISTINCT FROM $5",
        &[task_id.into(), kind.as_str().into(), oid.into(), schema.into(), attnum.into()],
    )?;
    let made: Option<Made> = spi::returned(
        "INSERT INTO trem.rule
             (task_id, kind, table_oid, schema_name, attnum, table_name, column_name, arguments)
         VALUES ($1::uuid, $2, $3::oid, $4, $5, $6, $7, $8) RETURNING id",
        &[
            task_id.into(),
            kind.as_str().into(),
            oid.into(),
            schema.into(),
            attnum.into(),
            subject.display().into(),
            column.into(),
            JsonB(arguments).into(),
        ],
    )?;
    made.map(|made| made.id).ok_or_else(|| Error::Catalog("the rule has no id".to_owned()))
}
