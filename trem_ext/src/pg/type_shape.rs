//! What types of users are made of, by the catalog that is seen at the moment: the one of today
//! when a definition is published, the one of history while changes are decoded. One function for
//! both, so that what it says can be compared.
//!
//! Only composite types and enums can change under their OID. The elements of an array, the base of
//! a domain and the subtype of a range cannot, so those are only looked through. Takes no locks,
//! evaluates nothing, and a type that does not exist is an answer, no error.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use trem_wire::definition::{DefinedAttribute, DefinedLabel, DefinedParts, DefinedShape};

use super::{attribute, utf8};

/// OIDs from here on are made by users and extensions (FirstNormalObjectId).
const FIRST_USER_OID: u32 = 16_384;

/// The composite types and enums that a type is, or has inside, sorted by OID; `None` if it, or one
/// of them, does not exist.
pub(crate) fn type_shapes(type_oid: u32) -> Option<Vec<DefinedShape>> {
    let mut found = Found::default();
    // SAFETY: in a transaction or in a callback that decodes a change, as every caller is.
    unsafe { found.visit(pg_sys::Oid::from(type_oid))? };
    let shapes = found.0.into_iter();
    Some(
        shapes
            .filter_map(|(type_oid, parts)| Some(DefinedShape { type_oid, parts: parts? }))
            .collect(),
    )
}

/// What was visited so far, and its parts if they can change.
#[derive(Default)]
struct Found(BTreeMap<u32, Option<DefinedParts>>);

/// The fields of `pg_type` that are needed.
struct TypeRow {
    kind: u8,
    base: pg_sys::Oid,
    relation: pg_sys::Oid,
}

impl Found {
    unsafe fn visit(&mut self, type_oid: pg_sys::Oid) -> Option<()> {
        let oid = type_oid.to_u32();
        if oid < FIRST_USER_OID || self.0.contains_key(&oid) {
            return Some(());
        }
        // SAFETY: catalog lookups, which give 0 for what is not there.
        unsafe {
            let row = type_row(type_oid)?;
            self.0.insert(oid, None);
            match row.kind {
                pg_sys::TYPTYPE_COMPOSITE => {
                    let attributes = attributes(row.relation)?;
                    for of in &attributes {
                        self.visit(pg_sys::Oid::from(of.type_oid))?;
                    }
                    let relation = row.relation.to_u32();
                    self.0.insert(oid, Some(DefinedParts::Composite { relation, attributes }));
                }
                pg_sys::TYPTYPE_ENUM => {
                    self.0.insert(oid, Some(DefinedParts::Enum(labels(type_oid))));
                }
                pg_sys::TYPTYPE_DOMAIN => self.visit(row.base)?,
                pg_sys::TYPTYPE_RANGE => self.visit(pg_sys::get_range_subtype(type_oid))?,
                pg_sys::TYPTYPE_MULTIRANGE => self.visit(pg_sys::get_multirange_range(type_oid))?,
                _ => self.visit(pg_sys::get_element_type(type_oid))?,
            }
        }
        Some(())
    }
}

unsafe fn type_row(type_oid: pg_sys::Oid) -> Option<TypeRow> {
    // SAFETY: the row of the system cache holds the fixed part of pg_type after its header; it is
    // released after the fields were read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(type_oid));
        if row.is_null() {
            return None;
        }
        let form = fixed_part::<pg_sys::FormData_pg_type>(row);
        let found =
            TypeRow { kind: form.typtype as u8, base: form.typbasetype, relation: form.typrelid };
        pg_sys::ReleaseSysCache(row);
        Some(found)
    }
}

/// Of a composite type, or of a table whose row type it is.
unsafe fn attributes(relation: pg_sys::Oid) -> Option<Vec<DefinedAttribute>> {
    // SAFETY: the relation cache gives null for what is not there; a relation has a descriptor
    // while it is held.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(relation);
        if relation.is_null() {
            return None;
        }
        let descriptor = (*relation).rd_att;
        let all = (0..(*descriptor).natts as usize).map(|at| attribute(descriptor, at));
        let found = all.filter(|found| !found.attisdropped).map(|found| DefinedAttribute {
            attnum: found.attnum,
            name: utf8(found.attname.data.as_ptr()),
            type_oid: found.atttypid.to_u32(),
        });
        let found = found.collect();
        pg_sys::RelationClose(relation);
        Some(found)
    }
}

unsafe fn labels(type_oid: pg_sys::Oid) -> Vec<DefinedLabel> {
    let mut labels: Vec<_> = {
        // SAFETY: the list's members are rows of pg_enum, which is fixed-width; it is released
        // after they were read.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::ENUMTYPOIDNAME as i32;
            let unused = pg_sys::Datum::null();
            let type_oid = pg_sys::Datum::from(type_oid);
            let list = pg_sys::SearchSysCacheList(cache, 1, type_oid, unused, unused);
            let members = (*list).members.as_slice((*list).n_members as usize);
            let found = members.iter().map(|&member| {
                let form = fixed_part::<pg_sys::FormData_pg_enum>(&raw mut (*member).tuple);
                DefinedLabel { oid: form.oid.to_u32(), label: utf8(form.enumlabel.data.as_ptr()) }
            });
            let found = found.collect();
            pg_sys::ReleaseCatCacheList(list);
            found
        }
    };
    labels.sort_by_key(|label| label.oid);
    labels
}

/// The part of a catalog row that every row has.
///
/// # Safety
/// `row` is a row of the catalog whose struct `T` is, and outlives `'a`.
unsafe fn fixed_part<'a, T>(row: pg_sys::HeapTuple) -> &'a T {
    // SAFETY: it lies behind the row's header, whose length that knows.
    unsafe {
        let header = (*row).t_data;
        &*header.byte_add(usize::from((*header).t_hoff)).cast::<T>()
    }
}

/// Has the server remember in which order the labels of an enum come, as it is now. Comparing two
/// labels would ask for that at the first comparison, under the catalog of history, where a label
/// that an expression names may not be yet. What is remembered stays for the session.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn remember_order(enum_oid: u32) {
    let enum_oid = pg_sys::Oid::from(enum_oid);
    // SAFETY: an enum that is there has an entry of the type cache, which lives as long as the
    // session. A label that the server has not read yet makes it read all of them.
    unsafe {
        let labels = labels(enum_oid);
        let [first, others @ ..] = labels.as_slice() else { return };
        let entry = pg_sys::lookup_type_cache(enum_oid, 0);
        for other in others {
            let (one, two) = (pg_sys::Oid::from(first.oid), pg_sys::Oid::from(other.oid));
            pg_sys::compare_values_of_enum(entry, one, two);
        }
    }
}
