//! Whether an expression is made of built-in types and functions alone. A view must hold no other
//! one: it would be read, and run, with the rights of whoever makes or reads the view.

use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

/// # Safety
/// `node` is an analysed expression of a kind that was admitted.
pub(super) unsafe fn is_built_in(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { !find_other(node, std::ptr::null_mut()) }
}

/// True at the first node that has to do with something else, which ends the walk.
#[pg_guard]
unsafe extern "C-unwind" fn find_other(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    let is_other = |oid: pg_sys::Oid| oid.to_u32() >= pg_sys::FirstNormalObjectId;
    // SAFETY: the node is valid and told by its tag; all but these two have a type.
    unsafe {
        let has_type = ![NodeTag::T_List, NodeTag::T_CaseWhen].contains(&(*node).type_);
        let calls_other = (*node).type_ == NodeTag::T_FuncExpr
            && is_other((*node.cast::<pg_sys::FuncExpr>()).funcid);
        calls_other
            || has_type && is_other(pg_sys::exprType(node))
            || pg_sys::expression_tree_walker(node, Some(find_other), context)
    }
}
