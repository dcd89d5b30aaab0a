//! The codec as a whole: what is written is read again, whatever bytes arrive are refused or read
//! but never panic, and version 1 keeps its bytes.

mod messages;

use bytes::Bytes;
use messages::{encode, message, put_row, put_update, update, Fields, Update};
use proptest::prelude::*;
use trem_wire::codec::{decode_frame, encode_run, DecodeError, Operation};
use trem_wire::message::{
    Begin, Column, Commit, ErrorRow, Logical, Message, Relation, RowFormat, Run, Truncate,
};
use trem_wire::Lsn;

/// Reads every row of a run through its iterators, which trust what decoding has checked.
fn read_rows(message: &Message) {
    match message {
        Message::Insert(run) | Message::Delete(run) => {
            run.rows().for_each(|row| assert_eq!(row.fields().count(), row.field_count()));
            assert_eq!(run.rows().count(), run.row_count as usize);
        }
        Message::Update(run) => {
            for row in run.updated_rows() {
                let columns = row.new.fields().count();
                (0..columns).for_each(|at| {
                    let _ = (row.unchanged.contains(at), row.unknown.contains(at));
                });
                assert!(row.old.is_none_or(|old| old.fields().count() < 65_536));
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(messages in prop::collection::vec(message(), 0..8)) {
        let frame: Bytes = messages.iter().flat_map(encode).collect::<Vec<_>>().into();
        prop_assert_eq!(decode_frame(&frame), Ok(messages));
    }

    #[test]
    fn fields_and_column_sets_come_back_as_they_went_in(updates in (0_usize..40).prop_flat_map(
        |columns| prop::collection::vec(update(columns), 1..5),
    )) {
        let mut rows = Vec::new();
        updates.iter().for_each(|update| put_update(&mut rows, update));
        let mut frame = Vec::new();
        encode_run(&mut frame, Operation::Update, 7, updates.len() as u32, &rows);
        let decoded = decode_frame(&frame.into()).expect("a frame of ours");
        let [Message::Update(run)] = decoded.as_slice() else { panic!("one run: {decoded:?}") };
        for (row, update) in run.updated_rows().zip(&updates) {
            let fields = |row: trem_wire::row::Row<'_>| -> Fields {
                row.fields().map(|field| field.map(<[u8]>::to_vec)).collect()
            };
            prop_assert_eq!(&fields(row.new), &update.new);
            prop_assert_eq!(&row.old.map(fields), &update.old);
            for column in 0..update.new.len() {
                let unchanged = update.unchanged.as_ref().is_some_and(|set| set[column]);
                let unknown = update.unknown.as_ref().is_some_and(|set| set[column]);
                prop_assert_eq!(row.unchanged.contains(column), unchanged);
                prop_assert_eq!(row.unknown.contains(column), unknown);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(messages) = decode_frame(&bytes.into()) {
            messages.iter().for_each(read_rows);
        }
    }

    #[test]
    fn a_frame_with_one_wrong_byte_never_panics(
        message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = encode(&message);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(messages) = decode_frame(&bytes.into()) {
            messages.iter().for_each(read_rows);
        }
    }

    #[test]
    fn every_truncation_of_a_message_is_an_error(message in message()) {
        let bytes = Bytes::from(encode(&message));
        for length in 1..bytes.len() {
            prop_assert!(decode_frame(&bytes.slice(..length)).is_err(), "cut at {}", length);
        }
    }
}

#[test]
fn an_empty_frame_has_no_messages() {
    assert_eq!(decode_frame(&Bytes::new()), Ok(vec![]));
}

#[test]
fn an_unknown_tag_is_named() {
    assert_eq!(decode_frame(&Bytes::from_static(b"Z")), Err(DecodeError::UnknownTag(b'Z')));
}

/// A count that the frame could never hold is refused before anything is allocated for it.
#[test]
fn a_count_larger_than_the_frame_is_refused() {
    let huge = [b'T', 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F];
    assert_eq!(decode_frame(&Bytes::copy_from_slice(&huge)), Err(DecodeError::Truncated));
}

fn golden_relation() -> Relation {
    Relation {
        oid: 16_384,
        source_schema: "app".to_owned(),
        source_name: "user".to_owned(),
        target_schema: "dwh".to_owned(),
        target_name: "Usuário".to_owned(),
        format: RowFormat::Binary,
        filtered: true,
        columns: vec![Column {
            attnum: 1,
            name: "id".to_owned(),
            type_oid: 23,
            type_name: "integer".to_owned(),
            key: true,
        }],
    }
}

fn golden() -> Vec<(Message, &'static [u8])> {
    let mut row = Vec::new();
    put_row(&mut row, &vec![Some(vec![0, 0, 0, 7]), None]);
    let mut updated = Vec::new();
    let update = Update {
        old: Some(vec![Some(vec![0, 0, 0, 7])]),
        new: vec![Some(vec![0, 0, 0, 8]), None],
        unchanged: Some(vec![false, true]),
        unknown: None,
    };
    put_update(&mut updated, &update);
    let run = |rows: &[u8]| Run { relation: 16_384, row_count: 1, rows: rows.to_vec().into() };
    vec![
        (
            Message::Begin(Begin {
                xid: 300,
                commit_lsn: Lsn(0x16_B374_D848),
                commit_timestamp: -1,
            }),
            b"B\xac\x02\xc8\xb0\xd3\x9b\xeb\x02\x01",
        ),
        (
            Message::Relation(golden_relation().into()),
            b"R\x80\x80\x01\x03app\x04user\x03dwh\x08Usu\xc3\xa1rio\
              b\x01\x01\x02\x02id\x17\x07integer\x01",
        ),
        (
            Message::Insert(run(&row)),
            b"I\x80\x80\x01\x01\x0e\0\x02\0\0\0\x04\0\0\0\x07\xff\xff\xff\xff",
        ),
        (
            Message::Update(run(&updated)),
            b"U\x80\x80\x01\x01\x1a\x03\0\x01\0\0\0\x04\0\0\0\x07\0\x02\0\0\0\x04\0\0\0\x08\
              \xff\xff\xff\xff\x02",
        ),
        (
            Message::Delete(run(&row)),
            b"D\x80\x80\x01\x01\x0e\0\x02\0\0\0\x04\0\0\0\x07\xff\xff\xff\xff",
        ),
        (
            Message::Truncate(Truncate {
                relations: vec![16_384, 1],
                cascade: true,
                restart_identity: false,
            }),
            b"T\x01\x02\x80\x80\x01\x01",
        ),
        (
            Message::Error(ErrorRow {
                relation: 16_384,
                operation: Operation::Update,
                rule_id: 3,
                sqlstate: "22P02".to_owned(),
                key: Bytes::from_static(b"\0\x01\xff\xff\xff\xff"),
            }),
            b"E\x80\x80\x01U\x06\x0522P02\x06\0\x01\xff\xff\xff\xff",
        ),
        (
            Message::Logical(Logical { content: Bytes::from_static(b"barrier:x") }),
            b"M\x09barrier:x",
        ),
        (Message::Commit(Commit { end_lsn: Lsn(0x16_B374_D848) }), b"C\xc8\xb0\xd3\x9b\xeb\x02"),
    ]
}

/// Protocol version 1, byte by byte. When this must change, so must `PROTO_VERSION`.
#[test]
fn version_1_keeps_its_bytes() {
    assert_eq!(trem_wire::PROTO_VERSION, 1);
    for (message, bytes) in golden() {
        assert_eq!(encode(&message), bytes, "{message:?}");
        assert_eq!(decode_frame(&Bytes::from_static(bytes)), Ok(vec![message]));
    }
}
