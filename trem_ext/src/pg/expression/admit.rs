//! Which expressions may run while decoding: the checks on the tree, each fault with what to do.
//!
//! Kinds of nodes are a list of what is admitted, so that a kind that a later server invents is
//! refused until somebody has thought about it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};
use pgrx::{pg_guard, FromDatum, PgList};

use super::{moment, stable, type_name, Fault};
use crate::pg::{attribute, utf8};

/// Below are the server's own objects (access/transam.h).
const FIRST_USER_OID: u32 = pg_sys::FirstNormalObjectId;

/// pg_language.dat
const LANGUAGE_INTERNAL: u32 = 12;
const LANGUAGE_C: u32 = 13;

/// The functions of ours about the change at hand. They and [`PSEUDONYM`] are stable, because the
/// planner folds immutable ones.
const METADATA: [&str; 3] = ["commit_lsn", "commit_timestamp", "operation"];
const PSEUDONYM: &str = "pseudonym";

/// What has been found out about one expression.
pub(super) struct Admission {
    faults: Vec<Fault>,
    pub(super) uses_metadata: bool,
    keys: BTreeSet<String>,
    /// Types of which a value becomes JSON, and that may be given a cast to it.
    json_enums: Vec<pg_sys::Oid>,
    /// By their places in the text.
    literals: HashMap<i32, String>,
    /// Types of the user that the table or the result has anyway, and so may occur.
    types: Vec<pg_sys::Oid>,
    collations: Vec<pg_sys::Oid>,
    /// Attribute numbers of columns that have no value in the row as it is stored.
    virtual_columns: Vec<i16>,
    extension: pg_sys::Oid,
    planned: bool,
}

impl Admission {
    /// # Safety
    /// `relation` is open.
    pub(super) unsafe fn new(
        relation: pg_sys::Relation,
        output: Option<(pg_sys::Oid, i32)>,
        literals: HashMap<i32, String>,
    ) -> Admission {
        let mut types: Vec<_> = output.iter().map(|(type_oid, _)| *type_oid).collect();
        let mut collations = Vec::new();
        let mut virtual_columns = Vec::new();
        // SAFETY: the relation is open, so it has a descriptor; the name ends with a zero byte.
        let extension = unsafe {
            let descriptor = (*relation).rd_att;
            for at in 0..(*descriptor).natts as usize {
                let column = attribute(descriptor, at);
                types.push(column.atttypid);
                collations.push(column.attcollation);
                if column.attgenerated as u8 == b'v' {
                    virtual_columns.push(column.attnum);
                }
            }
            pg_sys::get_extension_oid(c"trem".as_ptr(), true)
        };
        Admission {
            faults: Vec::new(),
            uses_metadata: false,
            keys: BTreeSet::new(),
            json_enums: Vec::new(),
            literals,
            types,
            collations,
            virtual_columns,
            extension,
            planned: false,
        }
    }

    /// # Safety
    /// `node` is an analysed expression over the relation.
    pub(super) unsafe fn check_parsed(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: as promised by the caller.
        unsafe { self.walk(node) };
    }

    /// # Safety
    /// `node` is a planned expression over the relation.
    pub(super) unsafe fn check_planned(&mut self, node: *mut pg_sys::Node) {
        self.planned = true;
        // SAFETY: as promised by the caller.
        unsafe { self.walk(node) };
    }

    pub(super) fn verdict(&mut self) -> Result<(), Vec<Fault>> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(std::mem::take(&mut self.faults)),
        }
    }

    pub(super) fn faults_with(mut self, fault: Fault) -> Vec<Fault> {
        self.faults.push(fault);
        self.faults
    }

    pub(super) fn pseudonym_keys(&self) -> Vec<String> {
        self.keys.iter().cloned().collect()
    }

    pub(super) fn json_enums(&self) -> Vec<pg_sys::Oid> {
        self.json_enums.clone()
    }

    fn fault(&mut self, message: impl Into<String>, hint: &str) {
        let fault = Fault::new(message, hint);
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    unsafe fn walk(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: the callback gets this admission back, which outlives the walk.
        unsafe { visit(node, std::ptr::from_mut(self).cast()) };
    }

    /// Looks at one node. False: its children are not looked at.
    unsafe fn look(&mut self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the node is valid and told by its tag; so are the nodes it refers to.
        unsafe {
            if !is_admitted_kind((*node).type_) {
                self.refuse_kind((*node).type_);
                return false;
            }
            let context = std::ptr::from_mut(self).cast();
            match (*node).type_ {
                // A list, or a key of a lookup in it: has no type of its own.
                NodeTag::T_List | NodeTag::T_CaseWhen => return true,
                NodeTag::T_Var => {
                    self.look_at_column(&*node.cast());
                    self.check_type(pg_sys::exprType(node));
                    return true;
                }
                // The bytes are taken for those of another type, or not looked at: the column's
                // own type does not matter.
                NodeTag::T_RelabelType => {
                    let relabel = &*node.cast::<pg_sys::RelabelType>();
                    if self.look_at_plain_column(relabel.arg.cast()) {
                        self.check_type(relabel.resulttype);
                        return false;
                    }
                }
                NodeTag::T_NullTest => {
                    let test = &*node.cast::<pg_sys::NullTest>();
                    return !self.look_at_plain_column(test.arg.cast());
                }
                NodeTag::T_Const => self.look_at_literal(&*node.cast()),
                NodeTag::T_FuncExpr => self.look_at_call(&*node.cast()),
                NodeTag::T_OpExpr | NodeTag::T_DistinctExpr | NodeTag::T_NullIfExpr => {
                    self.check_operator((*node.cast::<pg_sys::OpExpr>()).opno);
                }
                NodeTag::T_ScalarArrayOpExpr => {
                    self.check_operator((*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno);
                }
                NodeTag::T_CoerceToDomain => {
                    self.look_at_domain((*node.cast::<pg_sys::CoerceToDomain>()).resulttype);
                }
                NodeTag::T_CoerceViaIO => {
                    let read = &*node.cast::<pg_sys::CoerceViaIO>();
                    self.look_at_input(read.resulttype);
                    self.look_at_reading(read.arg.cast(), read.resulttype);
                }
                NodeTag::T_ArrayCoerceExpr => {
                    let read = &*node.cast::<pg_sys::ArrayCoerceExpr>();
                    self.look_at_reading(read.arg.cast(), read.resulttype);
                }
                _ => {}
            }
            pg_sys::check_functions_in_node(node, Some(visit_function), context);
            self.check_type(pg_sys::exprType(node));
            self.check_collation(pg_sys::exprCollation(node));
            self.check_collation(pg_sys::exprInputCollation(node));
            true
        }
    }

    /// True if the node is a column; then it is looked at but for its type.
    unsafe fn look_at_plain_column(&mut self, node: *mut pg_sys::Node) -> bool {
        // SAFETY: the node is valid and told by its tag.
        unsafe {
            let is_column = (*node).type_ == NodeTag::T_Var;
            if is_column {
                self.look_at_column(&*node.cast());
            }
            is_column
        }
    }

    fn look_at_column(&mut self, column: &pg_sys::Var) {
        if column.varattno == 0 {
            self.fault("expression refers to the whole row", "Name the columns that it needs.");
        } else if column.varattno < 0 {
            self.fault("expression refers to a system column", "Use the table's own columns.");
        } else if self.virtual_columns.contains(&column.varattno) {
            self.fault(
                "expression refers to a virtual generated column",
                "Write what the column is generated from.",
            );
        }
    }

    /// `'now'::timestamptz` is the time of reading the expression, and no constant at all.
    fn look_at_literal(&mut self, literal: &pg_sys::Const) {
        let text = self.literals.get(&literal.location).filter(|_| !self.planned);
        if text.is_some_and(|text| moment::is_meant(text)) && has_time(literal.consttype) {
            self.refuse_moment();
        }
    }

    /// A constant of another type is read as a time, or as something that has one inside.
    unsafe fn look_at_reading(&mut self, argument: *mut pg_sys::Node, to: pg_sys::Oid) {
        // SAFETY: the node is one of the tree.
        if has_time(to) && unsafe { moment::is_in_constants(argument) } {
            self.refuse_moment();
        }
    }

    fn refuse_moment(&mut self) {
        self.fault(
            "a literal depends on the time at which it is read",
            "Write a fixed date, or use trem.commit_timestamp().",
        );
    }

    /// The input function of an array or a row reads the domains inside, and runs what checks they
    /// have by then. Those of a domain itself are in the tree, and stay as they were looked at.
    fn look_at_input(&mut self, type_oid: pg_sys::Oid) {
        // SAFETY: the type occurs in the tree, so it exists.
        if unsafe { !inside(type_oid, pg_sys::TYPTYPE_DOMAIN).is_empty() } {
            let name = type_name(type_oid);
            self.fault(
                format!("text is read as type {name}, which has a domain inside"),
                "The domain's checks could be anybody's code. Build the value from its parts, or \
                 read it as a built-in type.",
            );
        }
    }

    /// A value becomes JSON by its type's cast to json, if somebody made one.
    unsafe fn look_at_json(&mut self, argument: *mut pg_sys::Node) {
        // SAFETY: the node is valid and told by its tag.
        unsafe {
            let type_oid = pg_sys::exprType(argument);
            if (*argument).type_ == NodeTag::T_RowExpr {
                let fields = (*argument.cast::<pg_sys::RowExpr>()).args;
                for field in PgList::<pg_sys::Node>::from_pg(fields).iter_ptr() {
                    self.look_at_json(field);
                }
            } else if type_oid == pg_sys::RECORDOID {
                let hint = "Its fields could become JSON by anybody's code. Write row(...) there.";
                self.fault("a record of unknown fields becomes JSON", hint);
            } else {
                for found in inside(type_oid, pg_sys::TYPTYPE_ENUM) {
                    self.json_enums.push(found);
                    if has_cast_to_json(found) {
                        let hint = "A function of yours cannot run while changes are decoded. \
                                    Write enums as text: value::text.";
                        self.fault(becomes_json_by_a_cast(found), hint);
                    }
                }
            }
        }
    }

    /// A call may mean more: of a function of the extension, or of one that makes JSON.
    unsafe fn look_at_call(&mut self, call: &pg_sys::FuncExpr) {
        if stable::makes_json(call.funcid) {
            // SAFETY: the arguments of a call are a list of nodes.
            unsafe {
                for argument in PgList::<pg_sys::Node>::from_pg(call.args).iter_ptr() {
                    self.look_at_json(argument);
                }
            }
        }
        let Some(name) = self.name_of_ours(call.funcid) else { return };
        if METADATA.contains(&name.as_str()) {
            self.uses_metadata = true;
        }
        if name == PSEUDONYM {
            // SAFETY: the arguments of a call are a list of nodes.
            match unsafe { key_argument(call.args) } {
                Some(key) => drop(self.keys.insert(key)),
                None => self.fault(
                    "the key of trem.pseudonym is not a literal",
                    "Write the key's name as a text constant.",
                ),
            }
        }
    }

    /// The checks of a domain run where the expression runs.
    unsafe fn look_at_domain(&mut self, domain: pg_sys::Oid) {
        // SAFETY: the record is filled in by the call and lives in the current memory context, as
        // the server wants it; the constraints are a list whose elements have expressions.
        unsafe {
            if !pg_sys::DomainHasConstraints(domain) {
                return;
            }
            let size = size_of::<pg_sys::DomainConstraintRef>();
            let reference: *mut pg_sys::DomainConstraintRef = pg_sys::palloc0(size).cast();
            let memory = pg_sys::CurrentMemoryContext;
            pg_sys::InitDomainConstraintRef(domain, reference, memory, false);
            let list = (*reference).constraints;
            for constraint in PgList::<pg_sys::DomainConstraintState>::from_pg(list).iter_ptr() {
                let check = (*constraint).check_expr;
                if !check.is_null() {
                    let planned = std::mem::replace(&mut self.planned, true);
                    self.walk(check.cast());
                    self.planned = planned;
                }
            }
        }
    }

    /// The name of a function of the extension; `None` for others.
    fn name_of_ours(&self, function: pg_sys::Oid) -> Option<String> {
        let catalog = pg_sys::ProcedureRelationId;
        let is_ours = function.to_u32() >= FIRST_USER_OID
            && self.extension != pg_sys::Oid::INVALID
            // SAFETY: a catalog lookup.
            && unsafe { pg_sys::getExtensionOfObject(catalog, function) } == self.extension;
        // SAFETY: the function exists; its name is given back as a string.
        is_ours.then(|| unsafe { utf8(pg_sys::get_func_name(function)) })
    }

    fn check_operator(&mut self, operator: pg_sys::Oid) {
        if operator.to_u32() >= FIRST_USER_OID {
            // SAFETY: gives a name for any OID.
            let name = unsafe { utf8(pg_sys::format_operator(operator)) };
            let hint = "Only built-in operators can run while changes are decoded.";
            self.fault(format!("operator {name} is not built in"), hint);
        }
    }

    fn check_function(&mut self, function: pg_sys::Oid) {
        // SAFETY: gives a name for any OID.
        let name = || unsafe { utf8(pg_sys::format_procedure(function)) };
        let ours = self.name_of_ours(function);
        if function.to_u32() >= FIRST_USER_OID && ours.is_none() {
            let hint =
                "Only built-in functions and those of trem can run while changes are decoded.";
            return self.fault(format!("function {} is not built in", name()), hint);
        }
        // SAFETY: the tree refers to the function, so it exists.
        let (volatility, language) = unsafe { volatility_and_language(function) };
        let admitted = match (volatility, ours) {
            (pg_sys::PROVOLATILE_IMMUTABLE, _) => true,
            (pg_sys::PROVOLATILE_STABLE, Some(name)) => {
                name == PSEUDONYM || METADATA.contains(&name.as_str())
            }
            (pg_sys::PROVOLATILE_STABLE, None) => stable::is_admitted(function),
            _ => false,
        };
        if !admitted {
            let hint = "Its result depends on more than its arguments, so the copy and the stream \
                        could differ.";
            self.fault(format!("function {} is not immutable", name()), hint);
        } else if self.planned && ![LANGUAGE_INTERNAL, LANGUAGE_C].contains(&language) {
            let hint = "It cannot run while changes are decoded; write what it does.";
            self.fault(format!("function {} is not written in C", name()), hint);
        }
    }

    fn check_collation(&mut self, collation: pg_sys::Oid) {
        if collation.to_u32() >= FIRST_USER_OID && !self.collations.contains(&collation) {
            // SAFETY: a lookup that gives a string, or null.
            let name = unsafe { pg_sys::get_collation_name(collation) };
            // SAFETY: a string of the server.
            let name = if name.is_null() { String::new() } else { unsafe { utf8(name) } };
            let hint = "Use a built-in collation such as \"C\".";
            self.fault(format!("collation \"{name}\" is not built in"), hint);
        }
    }

    fn check_type(&mut self, type_oid: pg_sys::Oid) {
        if type_oid == pg_sys::CSTRINGOID {
            let hint = "Write a cast.";
            return self.fault("expression calls an input or output function of a type", hint);
        }
        // SAFETY: the type occurs in the tree, so it exists.
        let admitted = type_oid.to_u32() < FIRST_USER_OID
            || unsafe { self.is_known(type_oid) && is_harmless(type_oid) };
        if !admitted {
            let hint =
                "Use built-in types, and enums, domains and composite types that columns of \
                        the table have.";
            self.fault(format!("type {} is not built in", type_name(type_oid)), hint);
        }
    }

    /// A type of a column or of the result, or one that goes with it: its base, elements, array.
    unsafe fn is_known(&self, type_oid: pg_sys::Oid) -> bool {
        // SAFETY: catalog lookups of types that exist.
        unsafe {
            let related = |known: pg_sys::Oid| {
                known == type_oid
                    || pg_sys::getBaseType(known) == type_oid
                    || pg_sys::get_element_type(known) == type_oid
                    || pg_sys::get_element_type(type_oid) == known
            };
            self.types.iter().any(|&known| related(known))
        }
    }

    fn refuse_kind(&mut self, kind: NodeTag) {
        let what = match kind {
            NodeTag::T_SQLValueFunction => {
                let hint = "The time, user or catalog differ between the copy and the stream; see \
                            trem.commit_timestamp().";
                return self.fault("expression uses the current time, user or catalog", hint);
            }
            NodeTag::T_XmlExpr => "XML expressions",
            NodeTag::T_ConvertRowtypeExpr => "conversions of whole rows",
            NodeTag::T_NextValueExpr => "sequences",
            NodeTag::T_SubLink | NodeTag::T_SubPlan => "sub-selects",
            NodeTag::T_Aggref | NodeTag::T_WindowFunc => "aggregates",
            _ => "constructs of this kind",
        };
        let message = format!("{what} are not supported in an expression");
        self.fault(message, "Use columns, constants, operators, functions, CASE and the like.");
    }
}

fn is_admitted_kind(kind: NodeTag) -> bool {
    use NodeTag::*;
    matches!(
        kind,
        T_List
            | T_Var
            | T_Const
            | T_FuncExpr
            | T_NamedArgExpr
            | T_OpExpr
            | T_DistinctExpr
            | T_NullIfExpr
            | T_ScalarArrayOpExpr
            | T_BoolExpr
            | T_SubscriptingRef
            | T_FieldSelect
            | T_RelabelType
            | T_CoerceViaIO
            | T_ArrayCoerceExpr
            | T_CollateExpr
            | T_CaseExpr
            | T_CaseWhen
            | T_CaseTestExpr
            | T_ArrayExpr
            | T_RowExpr
            | T_RowCompareExpr
            | T_CoalesceExpr
            | T_MinMaxExpr
            | T_NullTest
            | T_BooleanTest
            | T_CoerceToDomain
            | T_CoerceToDomainValue
    )
}

/// The type, and all that are inside of it.
unsafe fn with_inside(type_oid: pg_sys::Oid, types: &mut Vec<pg_sys::Oid>) {
    types.push(type_oid);
    // SAFETY: catalog lookups of a type that exists; the descriptor is a copy of ours.
    unsafe {
        let element = pg_sys::get_element_type(type_oid);
        if element != pg_sys::Oid::INVALID {
            return with_inside(element, types);
        }
        match pg_sys::get_typtype(type_oid) as u8 {
            pg_sys::TYPTYPE_DOMAIN => with_inside(pg_sys::getBaseType(type_oid), types),
            pg_sys::TYPTYPE_RANGE => with_inside(pg_sys::get_range_subtype(type_oid), types),
            pg_sys::TYPTYPE_MULTIRANGE => {
                with_inside(pg_sys::get_multirange_range(type_oid), types);
            }
            pg_sys::TYPTYPE_COMPOSITE => {
                let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(type_oid, -1);
                for at in 0..(*descriptor).natts as usize {
                    let field = attribute(descriptor, at);
                    if !field.attisdropped {
                        with_inside(field.atttypid, types);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A date or time, or a type with one inside.
fn has_time(type_oid: pg_sys::Oid) -> bool {
    let mut types = Vec::new();
    // SAFETY: the type occurs in a tree, so it exists.
    unsafe { with_inside(type_oid, &mut types) };
    types.into_iter().any(moment::is_time)
}

/// The types of a kind among the type and all that are inside of it.
unsafe fn inside(type_oid: pg_sys::Oid, kind: u8) -> Vec<pg_sys::Oid> {
    let mut types = Vec::new();
    // SAFETY: catalog lookups of types that exist.
    unsafe {
        with_inside(type_oid, &mut types);
        types.retain(|&found| pg_sys::get_typtype(found) as u8 == kind);
    }
    types
}

/// See json.c: of types that are not built in, neither arrays nor rows, it looks for such a cast.
/// Can be asked for while changes are decoded.
pub(crate) fn has_cast_to_json(type_oid: pg_sys::Oid) -> bool {
    let mut function = pg_sys::Oid::INVALID;
    // SAFETY: catalog lookups; the out parameter is ours.
    let path = unsafe {
        pg_sys::find_coercion_pathway(
            pg_sys::JSONOID,
            type_oid,
            pg_sys::CoercionContext::COERCION_EXPLICIT,
            &mut function,
        )
    };
    path == pg_sys::CoercionPathType::COERCION_PATH_FUNC
}

/// What is wrong with a type that has one.
pub(crate) fn becomes_json_by_a_cast(type_oid: pg_sys::Oid) -> String {
    format!("type {} becomes JSON by a cast that is not built in", type_name(type_oid))
}

/// A type whose output and comparison run nothing but built-in code, and so does its input, if no
/// domain is inside.
unsafe fn is_harmless(type_oid: pg_sys::Oid) -> bool {
    let mut types = Vec::new();
    // SAFETY: catalog lookups of types that exist.
    unsafe {
        with_inside(type_oid, &mut types);
        types.iter().all(|&found| {
            let kind = pg_sys::get_typtype(found) as u8;
            found.to_u32() < FIRST_USER_OID
                || pg_sys::get_element_type(found) != pg_sys::Oid::INVALID
                || [pg_sys::TYPTYPE_ENUM, pg_sys::TYPTYPE_DOMAIN, pg_sys::TYPTYPE_COMPOSITE]
                    .contains(&kind)
        })
    }
}

unsafe fn volatility_and_language(function: pg_sys::Oid) -> (u8, u32) {
    // SAFETY: the tuple of the system cache holds the fixed part of pg_proc after its header; it is
    // released after the two fields are read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if row.is_null() {
            return (pg_sys::PROVOLATILE_VOLATILE, 0);
        }
        let header = (*row).t_data;
        let form =
            header.byte_add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_proc>();
        let found = ((*form).provolatile as u8, (*form).prolang.to_u32());
        pg_sys::ReleaseSysCache(row);
        found
    }
}

/// The second argument of `trem.pseudonym(value, key_name)`, or the one with that name.
unsafe fn key_argument(arguments: *mut pg_sys::List) -> Option<String> {
    // SAFETY: the arguments are nodes told by their tags; a constant text is a text.
    unsafe {
        let list = PgList::<pg_sys::Node>::from_pg(arguments);
        let named = list.iter_ptr().find(|&node| {
            (*node).type_ == NodeTag::T_NamedArgExpr
                && (*node.cast::<pg_sys::NamedArgExpr>()).argnumber == 1
        });
        let argument = match named {
            Some(node) => (*node.cast::<pg_sys::NamedArgExpr>()).arg.cast(),
            None => list.get_ptr(1)?,
        };
        if (*argument).type_ != NodeTag::T_Const {
            return None;
        }
        let literal = &*argument.cast::<pg_sys::Const>();
        String::from_datum(literal.constvalue, literal.constisnull)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the walk was started by `Admission::walk`, whose admission this is; nobody else uses
    // it meanwhile.
    unsafe {
        if (*context.cast::<Admission>()).look(node) {
            pg_sys::expression_tree_walker(node, Some(visit), context);
        }
    }
    false
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: as for `visit`.
    unsafe { (*context.cast::<Admission>()).check_function(function) };
    false
}
