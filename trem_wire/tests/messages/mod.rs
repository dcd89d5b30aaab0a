//! Messages of every kind, at random, for the tests of the codec and of packing.
#![allow(dead_code, reason = "each of the tests uses a part")]

use proptest::prelude::*;
use trem_wire::codec::{
    encode_begin, encode_column_set, encode_commit, encode_error_row, encode_logical,
    encode_relation, encode_run, encode_truncate, encode_update_row, Operation,
};
use trem_wire::message::{
    Begin, Column, Commit, ErrorRow, Logical, Message, Relation, RowFormat, Run, Truncate,
};
use trem_wire::row::RowWriter;
use trem_wire::Lsn;

pub(crate) type Fields = Vec<Option<Vec<u8>>>;

/// A row of an update, before it is encoded.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) old: Option<Fields>,
    pub(crate) new: Fields,
    pub(crate) unchanged: Option<Vec<bool>>,
    pub(crate) unknown: Option<Vec<bool>>,
}

pub(crate) fn put_row(out: &mut Vec<u8>, fields: &Fields) {
    let count = i16::try_from(fields.len()).expect("few fields");
    let mut row = RowWriter::new(out, count);
    for field in fields {
        match field {
            Some(bytes) => row.field(bytes),
            None => row.null(),
        }
    }
}

pub(crate) fn put_update(out: &mut Vec<u8>, update: &Update) {
    let old = update.old.as_ref().map(|old| move |out: &mut Vec<u8>| put_row(out, old));
    encode_update_row(out, update.unchanged.is_some(), update.unknown.is_some(), old);
    put_row(out, &update.new);
    for set in [&update.unchanged, &update.unknown].into_iter().flatten() {
        encode_column_set(out, update.new.len(), |column| set[column]);
    }
}

pub(crate) fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        Message::Begin(begin) => encode_begin(&mut out, begin),
        Message::Relation(relation) => encode_relation(&mut out, relation),
        Message::Insert(run) => encode_message_run(&mut out, Operation::Insert, run),
        Message::Update(run) => encode_message_run(&mut out, Operation::Update, run),
        Message::Delete(run) => encode_message_run(&mut out, Operation::Delete, run),
        Message::Truncate(truncate) => encode_truncate(&mut out, truncate),
        Message::Error(error) => encode_error_row(&mut out, error),
        Message::Logical(logical) => encode_logical(&mut out, &logical.content),
        Message::Commit(commit) => encode_commit(&mut out, commit),
    }
    out
}

pub(crate) fn encode_message_run(out: &mut Vec<u8>, operation: Operation, run: &Run) {
    encode_run(out, operation, run.relation, run.row_count, &run.rows);
}

pub(crate) fn fields(count: usize) -> impl Strategy<Value = Fields> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop::collection::vec(prop::option::of(bytes), count)
}

pub(crate) fn update(columns: usize) -> impl Strategy<Value = Update> {
    let set = || prop::option::of(prop::collection::vec(any::<bool>(), columns));
    (prop::option::of(fields(columns)), fields(columns), set(), set())
        .prop_map(|(old, new, unchanged, unknown)| Update { old, new, unchanged, unknown })
}

pub(crate) fn run_of_rows() -> impl Strategy<Value = Run> {
    let rows = (0_usize..20).prop_flat_map(|columns| prop::collection::vec(fields(columns), 0..8));
    (any::<u32>(), rows).prop_map(|(relation, rows)| {
        let mut bytes = Vec::new();
        rows.iter().for_each(|row| put_row(&mut bytes, row));
        Run { relation, row_count: rows.len() as u32, rows: bytes.into() }
    })
}

pub(crate) fn run_of_updates() -> impl Strategy<Value = Run> {
    let rows = (0_usize..20).prop_flat_map(|columns| prop::collection::vec(update(columns), 0..8));
    (any::<u32>(), rows).prop_map(|(relation, rows)| {
        let mut bytes = Vec::new();
        rows.iter().for_each(|row| put_update(&mut bytes, row));
        Run { relation, row_count: rows.len() as u32, rows: bytes.into() }
    })
}

pub(crate) fn relation() -> impl Strategy<Value = Relation> {
    let column = (any::<i16>(), ".{0,12}", any::<u32>(), ".{0,12}", any::<bool>()).prop_map(
        |(attnum, name, type_oid, type_name, key)| Column {
            attnum,
            name,
            type_oid,
            type_name,
            key,
        },
    );
    let format = prop_oneof![Just(RowFormat::Binary), Just(RowFormat::Text)];
    let names = (".{0,12}", ".{0,12}", ".{0,12}", ".{0,12}");
    (any::<u32>(), names, format, any::<bool>(), prop::collection::vec(column, 0..20)).prop_map(
        |(oid, names, format, filtered, columns)| Relation {
            oid,
            source_schema: names.0,
            source_name: names.1,
            target_schema: names.2,
            target_name: names.3,
            format,
            filtered,
            columns,
        },
    )
}

pub(crate) fn error_row() -> impl Strategy<Value = ErrorRow> {
    let operation =
        prop_oneof![Just(Operation::Insert), Just(Operation::Update), Just(Operation::Delete)];
    let key = (0_usize..5).prop_flat_map(fields);
    (any::<u32>(), operation, any::<i64>(), "[0-9A-Z]{5}", key).prop_map(
        |(relation, operation, rule_id, sqlstate, key)| {
            let mut bytes = Vec::new();
            put_row(&mut bytes, &key);
            ErrorRow { relation, operation, rule_id, sqlstate, key: bytes.into() }
        },
    )
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(xid, lsn, commit_timestamp)| {
            Message::Begin(Begin { xid, commit_lsn: Lsn(lsn), commit_timestamp })
        }),
        relation().prop_map(|relation| Message::Relation(relation.into())),
        run_of_rows().prop_map(Message::Insert),
        run_of_updates().prop_map(Message::Update),
        run_of_rows().prop_map(Message::Delete),
        (prop::collection::vec(any::<u32>(), 0..6), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| {
                Message::Truncate(Truncate { relations, cascade, restart_identity })
            }
        ),
        error_row().prop_map(Message::Error),
        prop::collection::vec(any::<u8>(), 0..60)
            .prop_map(|content| Message::Logical(Logical { content: content.into() })),
        any::<u64>().prop_map(|lsn| Message::Commit(Commit { end_lsn: Lsn(lsn) })),
    ]
}
