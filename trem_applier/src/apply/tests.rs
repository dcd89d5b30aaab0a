//! Stories told to the state machine: messages in, actions out.

use super::*;
use bytes::Bytes;
use trem_wire::message::{Column, Commit, Logical, RowFormat, Truncate};

fn relation(oid: u32) -> Relation {
    Relation {
        oid,
        source_schema: "public".to_owned(),
        source_name: format!("t{oid}"),
        target_schema: "public".to_owned(),
        target_name: format!("t{oid}"),
        format: RowFormat::Binary,
        filtered: false,
        columns: vec![Column {
            attnum: 1,
            name: "id".to_owned(),
            type_oid: 20,
            type_name: "bigint".to_owned(),
            key: true,
        }],
    }
}

fn begin(xid: u64, commit_lsn: u64) -> Message {
    Message::Begin(Begin { xid, commit_lsn: Lsn(commit_lsn), commit_timestamp: 0 })
}

fn commit(end_lsn: u64) -> Message {
    Message::Commit(Commit { end_lsn: Lsn(end_lsn) })
}

fn run(relation: u32) -> Run {
    Run { relation, row_count: 1, rows: Bytes::from_static(b"\0\x01\xff\xff\xff\xff") }
}

fn feed(apply: &mut Apply, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
    let mut actions = Vec::new();
    for event in events {
        apply.handle(event, &mut actions).expect("a well-formed stream");
    }
    actions
}

fn received(messages: Vec<Message>) -> impl Iterator<Item = Event> {
    messages.into_iter().map(Event::Received)
}

fn passed(position: u64) -> Event {
    Event::Passed { position: Lsn(position), record: true }
}

fn plain() -> Apply {
    Apply::new(Lsn(100), HashMap::new(), Limits::default())
}

#[test]
fn transactions_at_hand_together_are_applied_in_one_group() {
    let mut apply = plain();
    let messages = vec![
        begin(1, 110),
        Message::Relation(relation(7).into()),
        Message::Insert(run(7)),
        commit(120),
        begin(2, 130),
        Message::Delete(run(7)),
        commit(140),
    ];
    let mut actions = feed(&mut apply, received(messages));
    assert_eq!(actions.len(), 4, "no commit while more may come: {actions:?}");
    assert_eq!(actions[0], Action::Transaction { xid: 1, commit_lsn: Lsn(110) });
    assert_eq!(actions[2], Action::Transaction { xid: 2, commit_lsn: Lsn(130) });
    actions = feed(&mut apply, [Event::Idle]);
    assert_eq!(actions, [Action::Commit { applied_lsn: Lsn(140), transactions: 2 }]);
    assert!(apply.at_boundary());
}

#[test]
fn a_group_never_ends_inside_a_source_transaction() {
    let mut apply = plain();
    feed(&mut apply, received(vec![begin(1, 110), Message::Relation(relation(7).into())]));
    feed(&mut apply, received(vec![Message::Insert(run(7))]));
    assert_eq!(feed(&mut apply, [Event::Idle, passed(105)]), []);
    assert!(!apply.at_boundary());
}

#[test]
fn a_large_group_ends_at_the_next_commit() {
    let limits = Limits { group_bytes: 6, group_transactions: 100 };
    let mut apply = Apply::new(Lsn(100), HashMap::new(), limits);
    let messages = vec![
        begin(1, 110),
        Message::Relation(relation(7).into()),
        Message::Insert(run(7)),
        commit(120),
    ];
    let actions = feed(&mut apply, received(messages));
    assert_eq!(actions[2], Action::Commit { applied_lsn: Lsn(120), transactions: 1 });
}

/// The source told of the position before, as it does now and then, and asks when it shuts down:
/// then it waits until just this position is confirmed.
#[test]
fn a_position_that_was_not_worth_recording_is_recorded_when_the_source_asks() {
    let mut apply = plain();
    let position = Lsn(150);
    assert_eq!(feed(&mut apply, [Event::Passed { position, record: false }]), []);
    assert_eq!(feed(&mut apply, [passed(150)]), [Action::Advance { applied_lsn: position }]);
    assert_eq!(feed(&mut apply, [passed(150)]), []);
}

#[test]
fn an_idle_position_moves_progress_only_between_groups() {
    let mut apply = plain();
    assert_eq!(
        feed(&mut apply, [passed(150), passed(150)]),
        [Action::Advance { applied_lsn: Lsn(150) }]
    );
    feed(&mut apply, received(vec![begin(1, 160), commit(170)]));
    assert_eq!(feed(&mut apply, [passed(200)]), []);
    assert_eq!(
        feed(&mut apply, [Event::Idle, passed(200)]),
        [
            Action::Commit { applied_lsn: Lsn(170), transactions: 1 },
            Action::Advance { applied_lsn: Lsn(200) }
        ]
    );
}

/// A commit can be in the WAL before a snapshot is taken and invisible to it (it waits for a
/// synchronous standby, say). Skipping by position would lose it.
#[test]
fn in_a_window_what_the_snapshot_sees_is_skipped_and_the_rest_is_applied() {
    let snapshot = Snapshot::parse("10:20:12,15").expect("a snapshot");
    let window = Window { overlap_end: Lsn(500), snapshot };
    let mut apply = Apply::new(Lsn(100), HashMap::from([(7, window)]), Limits::default());
    feed(&mut apply, received(vec![begin(5, 105), Message::Relation(relation(7).into())]));
    feed(&mut apply, received(vec![Message::Relation(relation(8).into()), commit(110)]));
    for (xid, skipped) in [(9, true), (11, true), (12, false), (15, false), (20, false)] {
        let messages = vec![
            begin(xid, 200),
            Message::Update(run(7)),
            Message::Truncate(Truncate {
                relations: vec![7, 8],
                cascade: false,
                restart_identity: false,
            }),
            commit(210),
        ];
        let actions = feed(&mut apply, received(messages));
        let truncated = match actions.last() {
            Some(Action::Truncate(relations)) => relations.len(),
            other => panic!("expected a truncate, got {other:?}"),
        };
        assert_eq!((actions.len(), truncated), if skipped { (2, 1) } else { (3, 2) }, "{xid}");
    }
    let messages = vec![begin(9, 500), Message::Update(run(7)), commit(510)];
    assert_eq!(feed(&mut apply, received(messages)).len(), 2, "the window is over");
}

#[test]
fn a_barrier_is_seen_in_the_group_of_its_transaction() {
    let mut apply = plain();
    let content = Bytes::from_static(b"barrier:abc");
    let messages = vec![begin(1, 110), Message::Logical(Logical { content }), commit(120)];
    let mut actions = feed(&mut apply, received(messages));
    actions.extend(feed(&mut apply, [Event::Idle]));
    assert_eq!(
        actions,
        [
            Action::Barrier { token: "abc".to_owned() },
            Action::Commit { applied_lsn: Lsn(120), transactions: 1 }
        ]
    );
}

#[test]
fn a_stream_that_breaks_its_rules_is_refused() {
    let mut actions = Vec::new();
    let mut refused = |messages: Vec<Message>| {
        let mut apply = plain();
        let results: Result<(), ApplyError> =
            received(messages).try_for_each(|event| apply.handle(event, &mut actions));
        results.expect_err("a broken stream")
    };
    refused(vec![commit(110)]);
    refused(vec![Message::Insert(run(7))]);
    refused(vec![begin(1, 110), begin(2, 120)]);
    let unknown = refused(vec![begin(1, 110), Message::Insert(run(7))]);
    assert_eq!(unknown, ApplyError::UnknownRelation { relation: 7 });
}

#[test]
fn snapshots_are_read_as_the_server_writes_them() {
    let snapshot = Snapshot::parse("727:727:").expect("no transaction in progress");
    assert!(snapshot.sees(726) && !snapshot.sees(727));
    for text in ["", "1", "1:2", "a:b:c", "1:2:x"] {
        assert_eq!(Snapshot::parse(text), None, "{text:?}");
    }
}
