//! An expression of a rule, from its text to a planned tree: parsed, checked and planned the same
//! way when a rule is made, when it is published and when a stream starts.
//!
//! # What is admitted
//! One scalar expression over one table's row. `admit` walks the tree as it was parsed and again
//! as it was planned; `stable` lists the built-in functions that are not immutable and admitted
//! all the same. The reason is the place where expressions run: inside logical decoding there is
//! no snapshot, so nothing may read a table, and only functions in C can run at all (one in SQL
//! crashes the server there).
//!
//! # With whose rights
//! Reading an expression may run code of users: a literal goes through the input function of its
//! type, which checks the domains inside. So whoever calls, that happens as the table's owner, who
//! alone can have brought such code in, in a security-restricted operation.
//!
//! # What it leaves behind
//! Nothing: it runs in a subtransaction, which takes back locks, references and settings whether
//! the expression is right or not. The planned tree lies in the caller's memory context.

mod admit;
mod built_in;
mod moment;
mod stable;

use std::ffi::{c_char, CStr, CString};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, CoercionContext, CoercionForm, NodeTag, ParseExprKind, RawParseMode};
use pgrx::{PgList, PgTryBuilder};
use trem_wire::sqlstate::is_of_the_session;

pub(crate) use admit::{becomes_json_by_a_cast, has_cast_to_json};

use super::evaluate::Quiet;
use super::owner::as_role;
use super::settings::set_for_now;
use super::{table, utf8};

/// Names in expressions are looked up here and nowhere else.
pub(super) const SEARCH_PATH: &str = "pg_catalog, trem, pg_temp";

/// In characters: a rule may write 10,000 (catalog/expression.rs), and a cast is put around that.
const LENGTH_MAX: usize = 11_000;

/// What is wrong with an expression, for the person who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { message: message.into(), hint: Some(hint.into()) }
    }
}

/// An expression that can be evaluated while decoding.
pub(crate) struct Compiled {
    pub(crate) type_oid: u32,
    /// The attribute numbers of the columns it needs, sorted.
    pub(crate) used: Vec<i16>,
    /// The names of the keys that it gives to `trem.pseudonym`, sorted.
    pub(crate) pseudonym_keys: Vec<String>,
    /// Enums of which it makes JSON. A cast to json that one is given later would be called.
    pub(crate) json_enums: Vec<pg_sys::Oid>,
    /// It asks for the position, time or kind of the change: not for filters and keys.
    pub(crate) uses_metadata: bool,
    /// An error while it is evaluated could tell of the values of its columns.
    pub(crate) may_tell: bool,
    /// It is made of built-in types and functions alone.
    pub(crate) is_built_in: bool,
    /// Whose table it is over.
    pub(crate) owner: pg_sys::Oid,
    /// The result's collation, as SQL names it; `None`: it has none.
    pub(crate) collation: Option<String>,
    /// Planned; in the memory context that was current when it was compiled.
    pub(crate) node: *mut pg_sys::Expr,
}

/// What an expression calls a table and its columns, by attribute number, where that may not be
/// what they are called now.
pub(crate) struct Names<'a> {
    pub(crate) table: &'a str,
    pub(crate) columns: Vec<(i16, &'a str)>,
}

/// Compiles `sql` over the row of `relation`, to a value of the type and modifier of `output`
/// (converted as an assignment converts), or of the type it has by itself.
///
/// Called in a transaction with an active snapshot, under the pinned settings. Errors of the server
/// that are about the expression come back as faults, others (a cancel, memory) are raised.
pub(crate) fn compile(
    relation: pg_sys::Oid,
    sql: &str,
    output: Option<(pg_sys::Oid, i32)>,
    names: Option<&Names<'_>>,
) -> Result<Compiled, Vec<Fault>> {
    if sql.chars().count() > LENGTH_MAX {
        let message = format!("expression is longer than {LENGTH_MAX} characters");
        return Err(vec![Fault::new(message, "Write a shorter one.")]);
    }
    let Ok(text) = CString::new(sql) else {
        return Err(vec![Fault::new("expression contains a zero byte", "Leave it out.")]);
    };
    // SAFETY: in a transaction; the text is a string that ends with a zero byte; the relation is
    // open until it is closed, or until the subtransaction ends.
    in_subtransaction(|| unsafe {
        let relation = pg_sys::try_relation_open(relation, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            let hint = "Remove it from the task with trem.remove_table.";
            return Err(vec![Fault::new("the table does not exist", hint)]);
        }
        let (is_table, owner) = table::of_open(relation);
        if !is_table {
            let hint = "Remove it from the task with trem.remove_table.";
            return Err(vec![Fault::new("the table is no table any more", hint)]);
        }
        let compiled = as_role(owner, || {
            set_for_now("search_path", SEARCH_PATH);
            compile_text((relation, owner), &text, output, names)
        })?;
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
        Ok(compiled)
    })
}

/// Runs `work` in a subtransaction that is rolled back, whatever comes of it. Quietly: the planner
/// evaluates what has no columns, and a NOTICE of that would go to whoever opens a stream.
fn in_subtransaction<T>(work: impl FnOnce() -> Result<T, Vec<Fault>>) -> Result<T, Vec<Fault>> {
    // SAFETY: in a transaction; what the subtransaction changes of these two is put back.
    let (memory, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let loud = Quiet::begin();
    let roll_back = move || {
        loud.end();
        // SAFETY: the subtransaction was begun above, and what runs in it has ended.
        unsafe {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            pg_sys::CurrentMemoryContext = memory;
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    let result = PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(|error| match fault_of(&error) {
            Some(fault) => Err(vec![fault]),
            None => {
                roll_back();
                error.rethrow()
            }
        })
        .execute();
    roll_back();
    result
}

/// The fault that an error of the server stands for; `None` if it is not about the expression.
fn fault_of(error: &CaughtError) -> Option<Fault> {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { .. } => return None,
    };
    // SAFETY: takes a number apart into a static buffer.
    let code = unsafe { CStr::from_ptr(pg_sys::unpack_sql_state(report.sql_error_code() as i32)) };
    if is_of_the_session(code.to_bytes()) {
        return None;
    }
    // The server takes our expressions for those of generated columns.
    let message = report.message().replace("column generation expression", "expression");
    let hint = match code.to_bytes() {
        // undefined_table: the server would explain what an alias is.
        b"42P01" => {
            Some("Name columns alone, or with the table's name and without its schema.".to_owned())
        }
        _ => report.hint().map(str::to_owned),
    };
    Some(Fault { message, hint })
}

unsafe fn compile_text(
    (relation, owner): (pg_sys::Relation, pg_sys::Oid),
    text: &CStr,
    output: Option<(pg_sys::Oid, i32)>,
    names: Option<&Names<'_>>,
) -> Result<Compiled, Vec<Fault>> {
    // SAFETY: the text ends with a zero byte; the table is open and locked; parse state and trees
    // are live until the memory context goes.
    unsafe {
        let raw = parse(text).map_err(|fault| vec![fault])?;
        // Analysis may scribble on the raw tree.
        let literals = moment::literals(raw);
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = text.as_ptr();
        // With an alias the table has no schema: in a partition's view it has another name, and
        // when the expression is read again perhaps another schema.
        let name = (*(*relation).rd_rel).relname.data.as_ptr();
        let item = pg_sys::addRangeTableEntryForRelation(
            state,
            relation,
            pg_sys::AccessShareLock as i32,
            pg_sys::makeAlias(name, std::ptr::null_mut()),
            false,
            true,
        );
        if let Some(names) = names {
            rename(&mut *(*item).p_names, names);
        }
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let kind = ParseExprKind::EXPR_KIND_GENERATED_COLUMN;
        let parsed = pg_sys::transformExpr(state, raw, kind);
        let mut admission = admit::Admission::new(relation, output, literals);
        let node = match coerce(state, parsed, output) {
            Ok(node) => {
                pg_sys::assign_expr_collations(state, node);
                admission.check_parsed(node);
                node
            }
            Err(fault) => {
                admission.check_parsed(parsed);
                return Err(admission.faults_with(fault));
            }
        };
        admission.verdict()?;
        let is_built_in = built_in::is_built_in(node);
        let planned = pg_sys::expression_planner(node.cast());
        admission.check_planned(planned.cast());
        admission.verdict()?;
        Ok(Compiled {
            type_oid: pg_sys::exprType(planned.cast()).to_u32(),
            used: used_columns(planned.cast()),
            pseudonym_keys: admission.pseudonym_keys(),
            json_enums: admission.json_enums(),
            uses_metadata: admission.uses_metadata,
            may_tell: pg_sys::contain_leaked_vars(planned.cast()),
            is_built_in,
            owner,
            collation: collation_name(pg_sys::exprCollation(planned.cast())),
            node: planned,
        })
    }
}

/// A slot of the table's present shape, from which expressions read their columns, all NULL. It
/// lives in the current memory context.
///
/// # Safety
/// In a transaction; the relation exists.
pub(crate) unsafe fn slot(relation: pg_sys::Oid) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the slot's arrays have room for all attributes of its descriptor, and stay filled for
    // good: a row overwrites the columns that are read.
    unsafe {
        let relation = pg_sys::relation_open(relation, pg_sys::AccessShareLock as i32);
        let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
        let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
        let count = (*descriptor).natts as usize;
        std::slice::from_raw_parts_mut((*slot).tts_isnull, count).fill(true);
        (*slot).tts_nvalid = count as i16;
        (*slot).tts_flags &= !(pg_sys::TTS_FLAG_EMPTY as u16);
        slot
    }
}

/// Has the parser know a table and its columns by these names; a column without one by none.
unsafe fn rename(table: &mut pg_sys::Alias, names: &Names<'_>) {
    // SAFETY: the parser made the alias for this expression alone: a string for each attribute.
    unsafe {
        table.aliasname = server_string(names.table);
        let columns = PgList::<pg_sys::String>::from_pg(table.colnames);
        for (at, column) in columns.iter_ptr().enumerate() {
            let named = names.columns.iter().find(|(attnum, _)| *attnum as usize == at + 1);
            (*column).sval = server_string(named.map_or("", |(_, name)| name));
        }
    }
}

/// A copy in the current memory context.
unsafe fn server_string(text: &str) -> *mut c_char {
    // SAFETY: the memory is as long as the text and its end.
    unsafe {
        let copy: *mut c_char = pg_sys::palloc0(text.len() + 1).cast();
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), copy, text.len());
        copy
    }
}

/// The one expression that the text is. The grammar takes more: `1, 2`, `1 FROM pg_class`.
unsafe fn parse(text: &CStr) -> Result<*mut pg_sys::Node, Fault> {
    let one = |message: &str| Fault::new(message, "Give one expression over the table's columns.");
    // SAFETY: the parser gives a list of statements, here one SELECT; nodes are told by their tag.
    unsafe {
        let mode = RawParseMode::RAW_PARSE_PLPGSQL_EXPR;
        let statements =
            PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(text.as_ptr(), mode));
        let statement = statements.head().map_or(std::ptr::null_mut(), |raw| (*raw).stmt);
        if statement.is_null() || (*statement).type_ != NodeTag::T_SelectStmt {
            return Err(one("not an expression"));
        }
        let select = &*statement.cast::<pg_sys::SelectStmt>();
        let plain = select.op == pg_sys::SetOperation::SETOP_NONE
            && select.intoClause.is_null()
            && select.whereClause.is_null()
            && select.havingClause.is_null()
            && select.limitOffset.is_null()
            && select.limitCount.is_null()
            && select.withClause.is_null()
            && [
                select.distinctClause,
                select.fromClause,
                select.groupClause,
                select.windowClause,
                select.valuesLists,
                select.sortClause,
                select.lockingClause,
            ]
            .iter()
            .all(|list| list.is_null());
        let targets = PgList::<pg_sys::ResTarget>::from_pg(select.targetList);
        match (plain, targets.len(), targets.head()) {
            (true, 1, Some(target)) => {
                let target = &*target;
                if !target.name.is_null() || target.val.is_null() || is_star(target.val) {
                    return Err(one("not one expression"));
                }
                Ok(target.val)
            }
            (true, 0, _) => Err(one("expression is empty")),
            _ => Err(one("not one expression")),
        }
    }
}

/// `*` alone is the parser's affair, not that of an expression, which would misread it.
unsafe fn is_star(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the node is a valid one of the raw tree, told by its tag; so are a list's elements.
    unsafe {
        if (*node).type_ != NodeTag::T_ColumnRef {
            return false;
        }
        let fields = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::ColumnRef>()).fields);
        let last = fields.tail();
        last.is_some_and(|last| (*last).type_ == NodeTag::T_A_Star)
    }
}

/// Converts the expression to what is wanted, as an assignment does; a literal of no type to text.
unsafe fn coerce(
    state: *mut pg_sys::ParseState,
    node: *mut pg_sys::Node,
    output: Option<(pg_sys::Oid, i32)>,
) -> Result<*mut pg_sys::Node, Fault> {
    // SAFETY: parse state and expression are those of `compile_text`.
    unsafe {
        let from = pg_sys::exprType(node);
        let (to, modifier) = match output {
            Some(output) => output,
            None if from == pg_sys::UNKNOWNOID => (pg_sys::TEXTOID, -1),
            None => return Ok(node),
        };
        let coerced = pg_sys::coerce_to_target_type(
            state,
            node,
            from,
            to,
            modifier,
            CoercionContext::COERCION_ASSIGNMENT,
            CoercionForm::COERCE_IMPLICIT_CAST,
            -1,
        );
        if coerced.is_null() {
            let (from, to) = (type_name(from), type_name(to));
            let message = format!("expression is of type {from}, not {to}");
            let hint = match to.as_str() {
                "boolean" => "Write a condition, such as a comparison.".to_owned(),
                _ => format!("Write a cast to {to}, or another expression."),
            };
            return Err(Fault::new(message, hint));
        }
        Ok(coerced)
    }
}

/// How an expression joins conditions, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Junction {
    And,
    Or,
}

/// The conditions that a planned expression joins by AND or by OR.
///
/// # Safety
/// `node` is of a [`Compiled`].
pub(crate) unsafe fn conditions(
    node: *mut pg_sys::Expr,
) -> Option<(Junction, Vec<*mut pg_sys::Expr>)> {
    // SAFETY: the node is told by its tag; the arguments of such a node are expressions.
    unsafe {
        if (*node).type_ != NodeTag::T_BoolExpr {
            return None;
        }
        let joined = &*node.cast::<pg_sys::BoolExpr>();
        let junction = match joined.boolop {
            pg_sys::BoolExprType::AND_EXPR => Junction::And,
            pg_sys::BoolExprType::OR_EXPR => Junction::Or,
            _ => return None,
        };
        Some((junction, PgList::from_pg(joined.args).iter_ptr().collect()))
    }
}

/// The attribute numbers of the columns that an expression reads, sorted.
///
/// # Safety
/// `node` is of a [`Compiled`], or about to be.
pub(crate) unsafe fn used_columns(node: *mut pg_sys::Node) -> Vec<i16> {
    // SAFETY: the tree's columns are those of range table entry 1; members are read in order.
    unsafe {
        let mut set = std::ptr::null_mut();
        pg_sys::pull_varattnos(node, 1, &mut set);
        let mut used = Vec::new();
        let mut member = pg_sys::bms_next_member(set, -1);
        while member >= 0 {
            used.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16);
            member = pg_sys::bms_next_member(set, member);
        }
        used
    }
}

fn collation_name(collation: pg_sys::Oid) -> Option<String> {
    // SAFETY: the collation exists; its name is given back as a string.
    (collation != pg_sys::Oid::INVALID)
        .then(|| unsafe { utf8(pg_sys::generate_collation_name(collation)) })
}

fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: gives a name for any OID.
    unsafe { utf8(pg_sys::format_type_be(type_oid)) }
}
