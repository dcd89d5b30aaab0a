//! The filters and expressions of the definition, ready to run: compiled when the stream starts,
//! under the catalog of that moment but the columns' names at publish, and pinned for its life.
//!
//! An expression reads its columns from a slot that has the table's shape at that moment; the
//! mapping of a relation says which attribute of a row, as history has it, goes where.
//!
//! An expression that does not compile any more (a column it names is gone) is no error yet: it
//! becomes one at the first change of its table, so that a stream of other tables goes on.

use std::collections::BTreeSet;
use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::{pg_guard, PgList};
use trem_wire::definition::{DefinedExpression, DefinedParts, DefinedTable, Definition};

use super::error::StreamError;
use crate::pg::expression::{self, Compiled, Fault, Junction, Names};
use crate::{mask, pg};

/// One expression, ready to be evaluated.
pub(crate) struct Rule {
    pub(crate) rule_id: i64,
    pub(crate) state: *mut pg_sys::ExprState,
    /// Positions in the slot of the columns that it reads.
    pub(crate) used: Vec<usize>,
    pub(crate) uses_metadata: bool,
}

/// A filter, taken apart where it joins conditions: for a row of which some values are missing.
pub(crate) enum Condition {
    Joined(Junction, Vec<Condition>),
    One {
        state: *mut pg_sys::ExprState,
        /// Positions in the slot of the columns that it reads.
        used: Vec<usize>,
    },
}

/// A column that rules read, as they were compiled for it.
pub(crate) struct Read {
    /// Position in the slot.
    pub(crate) slot: usize,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) type_modifier: i32,
    pub(crate) type_name: String,
    pub(crate) collation: pg_sys::Oid,
}

/// What a table's rows go through.
pub(crate) struct TableRules {
    pub(crate) filter: Option<Rule>,
    /// The filter once more; there if the filter is.
    pub(crate) condition: Option<Condition>,
    /// For each column of the definition: what computes it, unless it is passed through.
    pub(crate) columns: Vec<Option<Rule>>,
    /// All columns that are read.
    pub(crate) inputs: Vec<Read>,
    /// By rule: enums that must not be given a cast to json.
    json_enums: Vec<(i64, pg_sys::Oid)>,
    pub(crate) slot: *mut pg_sys::TupleTableSlot,
    pub(crate) context: *mut pg_sys::ExprContext,
}

/// A rule that does not fit its table any more.
pub(crate) struct Broken {
    rule_id: i64,
    reason: String,
}

/// For each table of the definition its rules, if it has any.
pub(crate) struct Rules(Vec<Option<Result<TableRules, Broken>>>);

impl Rules {
    /// Compiles all rules. Called in a transaction with an active snapshot, under the settings of
    /// the stream; `memory` outlives the result, `scratch` is the memory of single rows.
    pub(crate) fn compile(
        definition: &Definition,
        memory: pg_sys::MemoryContext,
        scratch: pg_sys::MemoryContext,
    ) -> Result<Rules, StreamError> {
        let mut keys = BTreeSet::new();
        let tables = definition.tables.iter().map(|table| {
            let has_rules =
                table.filter.is_some() || table.columns.iter().any(|c| c.expression.is_some());
            has_rules.then(|| compile_table(table, memory, scratch, &mut keys))
        });
        let tables = tables.collect();
        mask::load_stream_keys(&keys).map_err(|error| StreamError::Internal {
            what: "the stream has no keys for its pseudonyms",
            reason: format!("{error}."),
        })?;
        Ok(Rules(tables))
    }

    /// The rules of a table; an error if they do not fit it any more. Called in a callback, under
    /// the catalog as history has it there.
    pub(crate) fn of(
        &self,
        definition: &Definition,
        table: usize,
    ) -> Result<Option<&TableRules>, StreamError> {
        match &self.0[table] {
            None => Ok(None),
            Some(Ok(rules)) => match rules.given_a_cast() {
                None => Ok(Some(rules)),
                Some(broken) => Err(broken.in_table(definition, table)),
            },
            Some(Err(broken)) => Err(broken.in_table(definition, table)),
        }
    }

    /// The rules of a table of which [`Rules::of`] has said that they are there.
    #[inline]
    pub(crate) fn get(&self, table: usize) -> Option<&TableRules> {
        self.0[table].as_ref()?.as_ref().ok()
    }
}

impl TableRules {
    /// The expressions were compiled for a column as it is now, not as it was published: they would
    /// take rows of history for what they are not.
    fn find_retyped(&self, table: &DefinedTable) -> Option<Broken> {
        let rules = || self.filter.iter().chain(self.columns.iter().flatten());
        self.inputs.iter().find_map(|read| {
            let published = table.inputs.iter().find(|input| {
                input.attnum as usize == read.slot + 1
                    && input.type_oid != 0
                    && (input.type_oid, input.type_modifier)
                        != (read.type_oid.to_u32(), read.type_modifier)
            })?;
            let rule = rules().find(|rule| rule.used.contains(&read.slot))?;
            let reason = format!(
                "Column \"{}\" is of type {} now, and was of another when the task was published.",
                published.name, read.type_name
            );
            Some(Broken { rule_id: rule.rule_id, reason })
        })
    }

    fn given_a_cast(&self) -> Option<Broken> {
        let mut enums = self.json_enums.iter();
        let &(rule_id, found) = enums.find(|(_, found)| expression::has_cast_to_json(*found))?;
        Some(Broken { rule_id, reason: refused(&expression::becomes_json_by_a_cast(found)) })
    }
}

impl Broken {
    fn in_table(&self, definition: &Definition, table: usize) -> StreamError {
        StreamError::RuleBroken {
            task: definition.task.clone(),
            table: super::relation::table_name(&definition.tables[table]),
            rule_id: self.rule_id,
            reason: self.reason.clone(),
        }
    }
}

fn compile_table(
    table: &DefinedTable,
    memory: pg_sys::MemoryContext,
    scratch: pg_sys::MemoryContext,
    keys: &mut BTreeSet<String>,
) -> Result<TableRules, Broken> {
    let key: Vec<i16> = table.columns.iter().filter(|c| c.key).map(|c| c.attnum).collect();
    let relation = pg_sys::Oid::from(table.oid);
    let names = Names {
        table: &table.source_name,
        columns: table.inputs.iter().map(|input| (input.attnum, input.name.as_str())).collect(),
    };
    let mut compile_one = |rule: &DefinedExpression, output, is_filter_or_key| {
        let broken = |reason| Broken { rule_id: rule.rule_id, reason };
        let compiled = expression::compile(relation, &rule.sql, Some(output), Some(&names))
            .map_err(|faults| broken(sentence(&faults)))?;
        if compiled.uses_metadata && (is_filter_or_key || table.keyless) {
            return Err(broken("It uses the position, time or kind of the change.".to_owned()));
        }
        keys.extend(compiled.pseudonym_keys.iter().cloned());
        Ok((rule.rule_id, compiled))
    };
    let filter = match &table.filter {
        Some(filter) => Some(compile_one(filter, (pg_sys::BOOLOID, -1), true)?),
        None => None,
    };
    let mut columns = Vec::new();
    for column in &table.columns {
        let Some(rule) = &column.expression else {
            columns.push(None);
            continue;
        };
        let output = (pg_sys::Oid::from(column.type_oid), column.type_modifier);
        let (rule_id, compiled) = compile_one(rule, output, column.key)?;
        if column.key && compiled.used.iter().any(|attnum| !key.contains(attnum)) {
            let reason = format!("Key column \"{}\" depends on other columns.", column.name);
            return Err(Broken { rule_id, reason });
        }
        columns.push(Some((rule_id, compiled)));
    }
    for shape in &table.shapes {
        if matches!(shape.parts, DefinedParts::Enum(_)) {
            // SAFETY: in a transaction.
            unsafe { pg::remember_order(shape.type_oid) };
        }
    }
    // As the table's owner: an expression is made ready with the rights of the current user.
    let mut compiled = filter.iter().chain(columns.iter().flatten());
    let owner = compiled.next().map_or_else(pg::caller, |(_, compiled)| compiled.owner);
    // SAFETY: in the transaction in which the expressions were compiled.
    let rules =
        pg::as_role(owner, || unsafe { instantiate(relation, filter, columns, memory, scratch) });
    match rules.find_retyped(table) {
        None => Ok(rules),
        Some(broken) => Err(broken),
    }
}

/// Faults as one text.
fn sentence(faults: &[Fault]) -> String {
    let texts: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
    refused(&texts.join("; "))
}

fn refused(why: &str) -> String {
    format!("The expression is refused: {why}.")
}

/// # Safety
/// The expressions were compiled over `relation` in this transaction.
unsafe fn instantiate(
    relation: pg_sys::Oid,
    filter: Option<(i64, Compiled)>,
    columns: Vec<Option<(i64, Compiled)>>,
    memory: pg_sys::MemoryContext,
    scratch: pg_sys::MemoryContext,
) -> TableRules {
    // SAFETY: everything that is made here lives in `memory`, whose context is put back. The
    // context's own row memory is replaced by ours.
    unsafe {
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = memory;
        let slot = expression::slot(relation);
        let context = pg_sys::CreateStandaloneExprContext();
        pg_sys::MemoryContextDelete((*context).ecxt_per_tuple_memory);
        (*context).ecxt_per_tuple_memory = scratch;
        (*context).ecxt_scantuple = slot;

        let ready = |(rule_id, compiled): (i64, Compiled)| Rule {
            rule_id,
            state: state(compiled.node),
            used: positions(&compiled.used),
            uses_metadata: compiled.uses_metadata,
        };
        let json_enums = filter
            .iter()
            .chain(columns.iter().flatten())
            .flat_map(|(id, compiled)| compiled.json_enums.iter().map(|&found| (*id, found)));
        let json_enums = json_enums.collect();
        let condition = filter.as_ref().map(|(_, compiled)| condition(compiled.node));
        let filter = filter.map(ready);
        let columns: Vec<_> = columns.into_iter().map(|column| column.map(ready)).collect();
        pg_sys::CurrentMemoryContext = before;
        let rules = filter.iter().chain(columns.iter().flatten());
        let inputs: BTreeSet<usize> = rules.flat_map(|rule| rule.used.iter().copied()).collect();
        TableRules {
            filter,
            condition,
            columns,
            inputs: inputs.into_iter().map(|at| read(slot, at)).collect(),
            json_enums,
            slot,
            context,
        }
    }
}

/// # Safety
/// As for [`instantiate`]; the current memory context is that of the result.
unsafe fn condition(node: *mut pg_sys::Expr) -> Condition {
    // SAFETY: the node and what it joins are of a compiled expression.
    unsafe {
        match expression::conditions(node) {
            Some((junction, nodes)) => {
                Condition::Joined(junction, nodes.into_iter().map(|node| condition(node)).collect())
            }
            None => Condition::One {
                state: state(node),
                used: positions(&expression::used_columns(node.cast())),
            },
        }
    }
}

/// # Safety
/// As for [`condition`].
unsafe fn state(node: *mut pg_sys::Expr) -> *mut pg_sys::ExprState {
    // SAFETY: the copy is ours.
    unsafe {
        let node: *mut pg_sys::Expr = pg_sys::copyObjectImpl(node.cast()).cast();
        labels_behind_columns(node.cast(), std::ptr::null_mut());
        pg_sys::ExecInitExpr(node, std::ptr::null_mut())
    }
}

/// Turns `'label' < column` into `column > 'label'`. The server finds out which enum it compares by
/// looking for the first label, and one that an expression names may be later than the row.
///
/// # Safety
/// `node` is a planned expression of our own.
#[pg_guard]
unsafe extern "C-unwind" fn labels_behind_columns(
    node: *mut pg_sys::Node,
    context: *mut c_void,
) -> bool {
    const COMPARISONS: [u32; 4] =
        [pg_sys::F_ENUM_LT, pg_sys::F_ENUM_GT, pg_sys::F_ENUM_LE, pg_sys::F_ENUM_GE];
    if node.is_null() {
        return false;
    }
    // SAFETY: nodes are told by their tags; an operator of two arguments has two.
    unsafe {
        if (*node).type_ == NodeTag::T_OpExpr {
            let operator = node.cast::<pg_sys::OpExpr>();
            let first = PgList::<pg_sys::Node>::from_pg((*operator).args).head();
            let is_label = first.is_some_and(|first| (*first).type_ == NodeTag::T_Const);
            if is_label && COMPARISONS.contains(&(*operator).opfuncid.to_u32()) {
                pg_sys::CommuteOpExpr(operator);
                pg_sys::set_opfuncid(operator);
            }
        }
        pg_sys::expression_tree_walker(node, Some(labels_behind_columns), context)
    }
}

fn positions(attnums: &[i16]) -> Vec<usize> {
    attnums.iter().map(|&attnum| attnum as usize - 1).collect()
}

/// # Safety
/// `position` is that of an attribute of the slot's descriptor; in a transaction.
unsafe fn read(slot: *mut pg_sys::TupleTableSlot, position: usize) -> Read {
    // SAFETY: as promised by the caller.
    let attribute = unsafe { pg::attribute((*slot).tts_tupleDescriptor, position) };
    let (type_oid, type_modifier) = (attribute.atttypid, attribute.atttypmod);
    Read {
        slot: position,
        type_oid,
        type_modifier,
        type_name: pg::type_name_with_modifier(type_oid.to_u32(), type_modifier),
        collation: attribute.attcollation,
    }
}
