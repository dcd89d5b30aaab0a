//! A task as it is drafted: its row, its tables and patterns, its rules. Reads only.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use trem_wire::definition::Mode;

use super::access::{Kind, Owned};
use super::spi;
use crate::error::Error;

#[derive(Deserialize)]
pub(crate) struct Task {
    pub task_id: String,
    pub name: String,
    pub source: String,
    pub target: String,
    pub owner: u32,
    pub mode: Mode,
    pub options: Value,
    pub state: String,
    pub definition_version: Option<i64>,
}

impl Task {
    pub(crate) fn is_started(&self) -> bool {
        self.state == "started"
    }

    pub(crate) fn owned(&self) -> Owned<'_> {
        Owned { kind: Kind::Task, name: &self.name, owner: self.owner }
    }
}

#[derive(Deserialize)]
pub(crate) struct Item {
    pub kind: ItemKind,
    pub name: String,
    pub table_oid: Option<u32>,
    pub schema_name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ItemKind {
    Table,
    Pattern,
    Excluded,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Rule {
    pub id: i64,
    pub kind: RuleKind,
    pub table_oid: Option<u32>,
    pub schema_name: Option<String>,
    pub attnum: Option<i16>,
    pub table_name: String,
    /// Of a column that only the target has, its name there.
    pub column_name: Option<String>,
    pub arguments: Value,
    /// The type that the arguments name; `None` when it is gone, or none is named.
    pub type_oid: Option<u32>,
}

/// What a rule does. The names are those of the functions that make them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RuleKind {
    RenameSchema,
    RenameTable,
    RenameColumn,
    ExcludeColumn,
    SetFilter,
    AddColumn,
    ChangeType,
    SetValue,
}

impl RuleKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            RuleKind::RenameSchema => "rename_schema",
            RuleKind::RenameTable => "rename_table",
            RuleKind::RenameColumn => "rename_column",
            RuleKind::ExcludeColumn => "exclude_column",
            RuleKind::SetFilter => "set_filter",
            RuleKind::AddColumn => "add_column",
            RuleKind::ChangeType => "change_type",
            RuleKind::SetValue => "set_value",
        }
    }
}

impl Rule {
    /// The name that a renaming rule gives.
    pub(crate) fn new_name(&self) -> Result<&str, Error> {
        self.arguments["new_name"]
            .as_str()
            .ok_or_else(|| Error::Catalog(format!("rule {} has no new name", self.id)))
    }

    /// What the user wrote: of a filter or value; with a changed type only if it says how.
    pub(crate) fn expression(&self) -> Option<&str> {
        self.arguments["expression"].as_str()
    }

    /// The columns that the expression reads, as they were named when the rule was made.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (&str, i16)> {
        let columns = self.arguments["columns"].as_object().into_iter().flatten();
        columns
            .filter_map(|(name, attnum)| Some((name.as_str(), attnum.as_i64()?.try_into().ok()?)))
    }

    /// The type that the rule gives, as `format_type` has it.
    pub(crate) fn type_name(&self) -> Option<&str> {
        self.arguments["type_name"].as_str()
    }

    pub(crate) fn type_modifier(&self) -> i32 {
        self.arguments["type_modifier"].as_i64().and_then(|of| of.try_into().ok()).unwrap_or(-1)
    }
}

pub(crate) struct Draft {
    pub task: Task,
    pub items: Vec<Item>,
    pub rules: Vec<Rule>,
    load_generations: HashMap<u32, i64>,
}

impl Draft {
    pub(crate) fn load(task: Task) -> Result<Draft, Error> {
        #[derive(Deserialize)]
        struct Load {
            table_oid: u32,
            load_generation: i64,
        }
        let id = || task.task_id.as_str().into();
        let items = spi::rows(
            "SELECT kind, name, table_oid::oid::bigint, schema_name
             FROM trem.task_table WHERE task_id = $1::uuid ORDER BY id",
            &[id()],
        )?;
        let rules = spi::rows(
            "SELECT id, kind, table_oid::oid::bigint, schema_name, attnum, table_name,
                    column_name, arguments,
                    to_regtype(arguments->>'type_name')::oid::bigint AS type_oid
             FROM trem.rule WHERE task_id = $1::uuid ORDER BY id",
            &[id()],
        )?;
        let loads: Vec<Load> = spi::rows(
            "SELECT table_oid::oid::bigint, load_generation
             FROM trem.task_load WHERE task_id = $1::uuid",
            &[id()],
        )?;
        let load_generations =
            loads.into_iter().map(|load| (load.table_oid, load.load_generation)).collect();
        Ok(Draft { task, items, rules, load_generations })
    }

    pub(crate) fn load_generation(&self, oid: u32) -> i64 {
        self.load_generations.get(&oid).copied().unwrap_or(1)
    }
}

/// A task by name, whoever asks for it.
pub(crate) fn find_any(task: &str) -> Result<Task, Error> {
    let sql = "SELECT task_id, name, source, target, owner::oid::bigint, mode, options, state,
                      definition_version
               FROM trem.task WHERE name = $1";
    spi::row(sql, &[task.into()])?.ok_or_else(|| Error::Missing {
        what: "task",
        name: format!("\"{task}\""),
        hint: "SELECT name FROM trem.task; lists the tasks.".to_owned(),
    })
}

/// A task by name, to be read by a member of its owner.
pub(crate) fn find(task: &str) -> Result<Task, Error> {
    let task = find_any(task)?;
    task.owned().check()?;
    Ok(task)
}

/// A task by name, to be changed by a member of its owner: whoever else wants to change it waits.
pub(crate) fn find_for_change(task: &str) -> Result<Task, Error> {
    find(task)?;
    spi::run("SELECT FROM trem.task WHERE name = $1 FOR UPDATE", &[task.into()])?;
    let task = find(task)?;
    task.owned().take_over()?;
    Ok(task)
}

pub(crate) fn exists(task: &str) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Found {}
    let found: Option<Found> =
        spi::row("SELECT name FROM trem.task WHERE name = $1", &[task.into()])?;
    Ok(found.is_some())
}
