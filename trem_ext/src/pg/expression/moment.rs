//! Texts that mean the time at which they are read: `now`, `today`, `tomorrow`, `yesterday`. Read
//! as a date or time, by itself or inside of an array, range or row, such a text is no constant: it
//! would be one time in the copy, another one in the stream, and the same for as long as a stream
//! lives.
//!
//! A literal is looked at as the parser gave it, decoded, whatever way it is quoted; what is a
//! constant of another type and read as a time while the expression runs, in its text form.

use std::collections::HashMap;
use std::ffi::c_void;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, NodeTag};

use crate::pg::utf8;

const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

const TIMES: [pg_sys::Oid; 5] = [
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMETZOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
];

pub(super) fn is_time(type_oid: pg_sys::Oid) -> bool {
    TIMES.contains(&type_oid)
}

/// Whether the text has such a word. What quotes or escapes inside of an array or row is no part of
/// it: `{"n\ow"}` is read as `now`.
pub(super) fn is_meant(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    let plain = plain.to_ascii_lowercase();
    plain.split(|c: char| !c.is_ascii_alphabetic()).any(|word| WORDS.contains(&word))
}

/// The string literals of an expression, by their places in its text.
///
/// # Safety
/// `raw` is from the parser.
pub(super) unsafe fn literals(raw: *mut pg_sys::Node) -> HashMap<i32, String> {
    let mut found = HashMap::new();
    // SAFETY: the callback gets the map back, which outlives the walk.
    unsafe { visit_raw(raw, std::ptr::from_mut(&mut found).cast()) };
    found
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_raw(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node is valid and told by its tag, as is a literal's value; the context is the
    // map of `literals`.
    unsafe {
        if (*node).type_ == NodeTag::T_A_Const {
            let literal = &*node.cast::<pg_sys::A_Const>();
            if !literal.isnull && literal.val.node.type_ == NodeTag::T_String {
                let found = &mut *context.cast::<HashMap<i32, String>>();
                found.insert(literal.location, utf8(literal.val.sval.sval));
            }
            return false;
        }
        pg_sys::raw_expression_tree_walker(node, Some(visit_raw), context)
    }
}

/// Whether a constant in the tree has such a word in its text form.
///
/// # Safety
/// `node` is an analysed or planned expression.
pub(super) unsafe fn is_in_constants(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the walk needs no context.
    unsafe { visit_constant(node, std::ptr::null_mut()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_constant(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the node is valid and told by its tag; a constant that is not null has a value of its
    // type.
    unsafe {
        if (*node).type_ == NodeTag::T_Const {
            let constant = &*node.cast::<pg_sys::Const>();
            if constant.constisnull {
                return false;
            }
            let (mut output, mut varlena) = (pg_sys::Oid::INVALID, false);
            pg_sys::getTypeOutputInfo(constant.consttype, &mut output, &mut varlena);
            return is_meant(&utf8(pg_sys::OidOutputFunctionCall(output, constant.constvalue)));
        }
        pg_sys::expression_tree_walker(node, Some(visit_constant), context)
    }
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn words_are_found_in_every_shape() {
        for text in [
            "now",
            " NOW ",
            "Today 10:00",
            "{now,2020-01-01}",
            "[2020-01-01,now)",
            "(1,\"tomorrow\")",
            "{\"n\\ow\"}",
            "(n\"o\"w)",
            "{[today,2099-01-01)}",
            "yesterday",
        ] {
            assert!(is_meant(text), "{text}");
        }
        for text in ["2020-01-01", "snow", "nowhere", "{}", "infinity", "epoch", ""] {
            assert!(!is_meant(text), "{text}");
        }
    }
}
