//! From the draft to the tables it means: patterns expanded, rules applied, and everything that is
//! wrong with them gathered rather than stopped at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::draft::{Draft, Item, ItemKind, Rule, RuleKind};
use super::expression::{self, RuleFault};
use super::problem::Problem;
use super::shape::{self, Shape};
use super::table::{self, Table};
use super::{name, types};
use crate::error::Error;

pub(crate) struct Plan {
    /// The tables that can be replicated, by source name.
    pub shapes: Vec<Shape>,
    pub types: types::Types,
    /// The keys that the rules' pseudonyms need.
    pub mask_keys: BTreeSet<String>,
    pub problems: Vec<Problem>,
}

pub(crate) fn build(draft: &Draft) -> Result<Plan, Error> {
    let mut problems = Vec::new();
    let tables = expand(draft, &mut problems)?;
    check_rules(draft, &tables, &mut problems);
    let mut shapes = Vec::new();
    for table in tables {
        let load_generation = draft.load_generation(table.oid);
        shapes.push(shape::apply(table, &draft.rules, load_generation)?);
    }
    if shapes.is_empty() && problems.is_empty() {
        let hint = format!("SELECT trem.add_table('{}', '<schema.table>');", draft.task.name);
        problems.push(Problem::error("tables", "the task has no table", hint));
    }
    check_names(&draft.task.name, &shapes, &mut problems);
    let types = types::Types::load(shapes.iter().flat_map(Shape::types))?;
    let mut mask_keys = BTreeSet::new();
    for shape in &mut shapes {
        types.check(shape, &mut problems);
        let findings = expression::check(shape);
        problems.extend(findings.remarks);
        problems.extend(findings.faults.iter().map(|fault| rule_fault(draft, fault)));
        mask_keys.extend(findings.mask_keys);
    }
    Ok(Plan { shapes, types, mask_keys, problems })
}

/// Whether the draft has the table, named or by a pattern.
pub(crate) fn contains(draft: &Draft, table: &Table) -> bool {
    let is = |item: &Item| item.table_oid == Some(table.oid);
    let has = |kind, test: &dyn Fn(&Item) -> bool| {
        draft.items.iter().any(|item| item.kind == kind && test(item))
    };
    has(ItemKind::Table, &is)
        || has(ItemKind::Pattern, &|item| item.schema_name.as_ref() == Some(&table.schema))
            && !has(ItemKind::Excluded, &is)
}

fn expand(draft: &Draft, problems: &mut Vec<Problem>) -> Result<Vec<Table>, Error> {
    let of_kind = |kind| draft.items.iter().filter(move |item| item.kind == kind);
    let named: HashSet<u32> = of_kind(ItemKind::Table).filter_map(|item| item.table_oid).collect();
    let excluded: HashSet<u32> =
        of_kind(ItemKind::Excluded).filter_map(|item| item.table_oid).collect();
    let mut matched = BTreeSet::new();
    for item in of_kind(ItemKind::Pattern) {
        let schema = item.schema_name.as_deref().unwrap_or_default();
        let of_schema: Vec<u32> =
            table::in_schema(schema)?.into_iter().filter(|oid| !excluded.contains(oid)).collect();
        if of_schema.is_empty() {
            problems.push(
                Problem::error(
                    "pattern",
                    "the pattern matches no table",
                    format!("SELECT trem.remove_table('{}', '{}');", draft.task.name, item.name),
                )
                .of(&item.name),
            );
        }
        matched.extend(of_schema);
    }
    let tables = table::load(named.iter().chain(&matched).copied())?;
    let found: HashSet<u32> = tables.iter().map(|table| table.oid).collect();
    for item in of_kind(ItemKind::Table) {
        if item.table_oid.is_some_and(|oid| !found.contains(&oid)) {
            let hint = format!("SELECT trem.remove_table('{}', '{}');", draft.task.name, item.name);
            problems.push(Problem::error("table", "the table was dropped", hint).of(&item.name));
        }
    }
    // A root that the task has, or leaves out, speaks for its partitions.
    let roots: HashSet<u32> = found.union(&excluded).copied().collect();
    Ok(tables
        .into_iter()
        .filter(|table| match refusal(&draft.task.name, table, &named, &roots) {
            Refusal::No => true,
            Refusal::Covered => false,
            Refusal::Problem(problem) => {
                problems.push(problem);
                false
            }
        })
        .collect())
}

enum Refusal {
    No,
    /// A partition matched by a pattern, whose root the task has or leaves out.
    Covered,
    Problem(Problem),
}

fn refusal(task: &str, table: &Table, named: &HashSet<u32>, roots: &HashSet<u32>) -> Refusal {
    let Some(reason) = &table.refusal else { return Refusal::No };
    let by_pattern = !named.contains(&table.oid);
    if by_pattern && table.root_oid.is_some_and(|root| roots.contains(&root)) {
        return Refusal::Covered;
    }
    let problem = if by_pattern && table.kind.ends_with("view") {
        // A view has no rows of its own to follow: worth a word, no reason to stop.
        Problem::warning("not_replicable", reason, remedy(table))
    } else {
        let hint = format!(
            "{} Or leave it out: SELECT trem.remove_table('{task}', '{}');",
            remedy(table),
            table.display().replace('\'', "''")
        );
        Problem::error("not_replicable", reason, hint)
    };
    Refusal::Problem(problem.of(table.display()))
}

/// What to do instead about a table that cannot be replicated.
pub(crate) fn remedy(table: &Table) -> String {
    match &table.refusal {
        Some(reason) if reason.contains("unlogged") && table.kind == "table" => {
            format!("ALTER TABLE {} SET LOGGED;", name::qualified(&table.schema, &table.name))
        }
        _ if table.root_oid.is_some() => {
            "Name the partitioned table: it stands for all its partitions.".to_owned()
        }
        _ if table.kind.ends_with("view") => {
            "Replicate the tables it reads, and create the view on the target.".to_owned()
        }
        _ if table.kind == "foreign table" => {
            "Replicate it from the database that has its rows.".to_owned()
        }
        _ => "Only permanent, logged tables of users can be replicated.".to_owned(),
    }
}

/// Rules whose table or column is gone, or no longer of the task.
fn check_rules(draft: &Draft, tables: &[Table], problems: &mut Vec<Problem>) {
    let by_oid: HashMap<u32, &Table> = tables.iter().map(|table| (table.oid, table)).collect();
    for rule in &draft.rules {
        let message = match (rule.table_oid, rule.attnum) {
            (Some(oid), attnum) => match (by_oid.get(&oid), attnum) {
                (None, _) => "is about a table that is not in the task".to_owned(),
                (Some(table), Some(attnum)) => match table.column(attnum) {
                    None => format!(
                        "is about the column \"{}\", which was dropped",
                        rule.column_name.as_deref().unwrap_or_default()
                    ),
                    Some(_) if rule.kind == RuleKind::ExcludeColumn && table.is_key(attnum) => {
                        "excludes a column of the key".to_owned()
                    }
                    Some(_) if type_is_gone(rule) => type_gone(rule),
                    Some(_) => match name_of_another(rule, table) {
                        Some(name) => name_moved(name),
                        None => continue,
                    },
                },
                (Some(_), None) if type_is_gone(rule) => type_gone(rule),
                (Some(table), None) => match name_of_another(rule, table) {
                    Some(name) => name_moved(name),
                    None => continue,
                },
            },
            (None, _) if tables.iter().any(|t| rule.schema_name.as_ref() == Some(&t.schema)) => {
                continue
            }
            (None, _) => "is about a schema of which the task has no table".to_owned(),
        };
        problems.push(rule_problem(rule, &message));
    }
}

/// A name that stood for one column when the rule was made and stands for another one now: columns
/// swapped their names, or the table was restored with other numbers. What was meant is unknown.
fn name_of_another<'a>(rule: &'a Rule, table: &Table) -> Option<&'a str> {
    let own = rule.column_name.as_deref().zip(rule.attnum);
    own.into_iter().chain(rule.columns()).find_map(|(name, attnum)| {
        let now = table.columns.iter().find(|column| column.name == name)?;
        (now.attnum != attnum).then_some(name)
    })
}

fn name_moved(name: &str) -> String {
    format!("names column \"{name}\", and another column has that name by now")
}

fn type_is_gone(rule: &Rule) -> bool {
    rule.type_name().is_some() && rule.type_oid.is_none()
}

fn type_gone(rule: &Rule) -> String {
    format!("needs type {}, which was dropped", rule.type_name().unwrap_or_default())
}

/// What became wrong with an expression since its rule was made.
fn rule_fault(draft: &Draft, found: &RuleFault) -> Problem {
    let rule = draft.rules.iter().find(|rule| rule.id == found.rule_id);
    let rule = rule.expect("an expression comes from a rule");
    let message = match &rule.column_name {
        Some(column) => format!("of column \"{column}\": {}", found.fault.message),
        None => found.fault.message.clone(),
    };
    let hint = format!(
        "{} Then make the rule anew: SELECT trem.drop_transformation({});",
        found.fault.hint.as_deref().unwrap_or_default(),
        rule.id
    );
    let message = format!("rule {} ({}) {message}", rule.id, rule.kind.as_str());
    Problem::error("rule", message, hint.trim_start()).of(&rule.table_name)
}

fn rule_problem(rule: &Rule, message: &str) -> Problem {
    Problem::error(
        "rule",
        format!("rule {} ({}) {message}", rule.id, rule.kind.as_str()),
        format!("SELECT trem.drop_transformation({});", rule.id),
    )
    .of(&rule.table_name)
}

const RENAME: &str = "Give one of them another name with trem.rename_table, trem.rename_schema or \
                      trem.rename_column.";

/// Names that clash on the target, or that it cannot have.
fn check_names(task: &str, shapes: &[Shape], problems: &mut Vec<Problem>) {
    let mut takers: BTreeMap<(&str, &str), Vec<&Shape>> = BTreeMap::new();
    for shape in shapes {
        takers.entry((&shape.target_schema, &shape.target_name)).or_default().push(shape);
        check_columns(shape, problems);
        let schema = shape.target_schema.as_str();
        if name::is_reserved_schema(schema) {
            let message = format!("the target schema \"{schema}\" is reserved");
            let hint = format!(
                "SELECT trem.rename_schema('{task}', '{}', '<new schema>');",
                shape.table.display().replace('\'', "''")
            );
            problems.push(Problem::error("target_name", message, hint).of(shape.table.display()));
        }
    }
    for ((schema, table), takers) in takers {
        if let [first, rest @ ..] = takers.as_slice() {
            for other in rest {
                let message = format!(
                    "{} goes to {} as well",
                    first.table.display(),
                    name::display(schema, table)
                );
                problems
                    .push(Problem::error("name_clash", message, RENAME).of(other.table.display()));
            }
        }
    }
}

fn check_columns(shape: &Shape, problems: &mut Vec<Problem>) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for column in &shape.columns {
        if let Some(other) = seen.insert(&column.name, column.display()) {
            let message = format!(
                "its columns \"{other}\" and \"{}\" are both named \"{}\" on the target",
                column.display(),
                column.name
            );
            problems.push(Problem::error("name_clash", message, RENAME).of(shape.table.display()));
        }
        let is_virtual = column.source.as_ref().is_some_and(|source| source.generated == "v");
        if is_virtual && column.computed.is_none() {
            let message = format!("column \"{}\" is virtual: it is not stored", column.name);
            let hint = "Exclude it with trem.exclude_column, or make it STORED.";
            problems.push(Problem::error("column", message, hint).of(shape.table.display()));
        }
    }
    if shape.columns.is_empty() {
        let hint = "Keep at least one column: trem.drop_transformation removes a rule.";
        problems
            .push(Problem::error("column", "no column is left", hint).of(shape.table.display()));
    }
    if shape.target_column_reserved() {
        let hint = "Rename it with trem.rename_column.";
        let message = "a column is named \"trem_ctid\", which TREM's views use";
        problems.push(Problem::error("column", message, hint).of(shape.table.display()));
    }
}
