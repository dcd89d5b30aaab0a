//! The replication client against bytes that a server would send.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::source::stream::{Stream, StreamEvent};
use crate::transport::Socket;

#[test]
fn events_are_read_and_short_ones_refused() {
    let mut frame = BytesMut::from(&b"w"[..]);
    frame.put_u64(16);
    frame.put_u64(32);
    frame.put_i64(7);
    frame.extend_from_slice(b"payload");
    let payload = Bytes::from_static(b"payload");
    let expected = Event::Frame { wal_start: Lsn(16), wal_end: Lsn(32), sent_at: 7, payload };
    assert_eq!(parse_event(frame.freeze()).expect("valid"), expected);

    let mut keepalive = BytesMut::from(&b"k"[..]);
    keepalive.put_u64(48);
    keepalive.put_i64(7);
    keepalive.put_u8(1);
    let keepalive = keepalive.freeze();
    let expected = Event::Keepalive { wal_end: Lsn(48), reply_requested: true };
    assert_eq!(parse_event(keepalive.clone()).expect("valid"), expected);
    for cut in 0..keepalive.len() {
        assert!(parse_event(keepalive.slice(..cut)).is_err());
    }
    assert!(parse_event(Bytes::from_static(b"?")).is_err());
}

#[test]
fn a_status_has_the_length_it_states() {
    let mut out = BytesMut::new();
    let status =
        StandbyStatus { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1), reply_requested: true };
    encode_status(status, &mut out);
    assert_eq!(out.len(), 1 + 38);
    assert_eq!(out[..6], [b'd', 0, 0, 0, 38, b'r']);
    assert_eq!(
        out[6..30],
        [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    );
    assert_eq!(out[38], 1);
}

#[test]
fn rows_keep_null_apart_from_empty() {
    let row = Bytes::from_static(b"\0\x03\xff\xff\xff\xff\0\0\0\0\0\0\0\x01a");
    let expected = [None, Some(String::new()), Some("a".to_owned())];
    assert_eq!(parse_row(row.clone()).expect("valid"), expected);
    assert!(parse_row(row.slice(..row.len() - 1)).is_err());
}

#[test]
fn a_timeline_history_is_read() {
    let text = "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t1/A\tbefore x\n";
    let expected = [(1, Lsn(0x300_0148)), (2, Lsn(0x1_0000_000A))];
    assert_eq!(parse_history(text).expect("valid"), expected);
    assert!(parse_history("x").is_err());
}

#[test]
fn names_and_values_are_quoted() {
    assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    assert_eq!(literal("it's"), "'it''s'");
}

/// A stream whose server is the other end of the socket.
fn stream() -> (ReplicationStream, UnixStream) {
    let (ours, server) = UnixStream::pair().expect("a pair of sockets");
    let wire = Wire::new(Transport::Plain(Socket::Unix(ours)));
    (ReplicationStream { wire }, server)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short body");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn frame(number: u64, payload: &[u8]) -> Vec<u8> {
    let header = [&b"w"[..], &number.to_be_bytes(), &number.to_be_bytes(), &[0; 8]].concat();
    message(b'd', &[&header[..], payload].concat())
}

#[tokio::test]
async fn a_cancelled_read_loses_nothing() {
    let (mut stream, mut server) = stream();
    let sizes = [0, 1, 5000, 200_000, 3, 70_000];
    let bytes: Vec<u8> = (0_u64..).zip(sizes).flat_map(|(i, n)| frame(i, &vec![7; n])).collect();
    let writer = tokio::spawn(async move {
        for piece in bytes.chunks(997) {
            server.write_all(piece).await.expect("write");
            tokio::task::yield_now().await;
        }
        server
    });
    let (mut received, mut cancelled) = (0, 0);
    while received < sizes.len() {
        tokio::select! {
            biased;
            event = stream.next() => match event.expect("an event") {
                Event::Frame { wal_start, payload, .. } => {
                    assert_eq!((wal_start.0, payload.len()), (received as u64, sizes[received]));
                    received += 1;
                }
                other => panic!("{other:?}"),
            },
            () = tokio::task::yield_now() => cancelled += 1,
        }
    }
    assert!(cancelled > 0, "nothing was cancelled: the test shows nothing");
    drop(writer.await.expect("the writer"));
    let error = stream.next().await.expect_err("the end");
    assert_eq!(error.kind(), Kind::ConnectionLost);
}

#[tokio::test]
async fn the_servers_last_words_are_heard() {
    let (mut stream, mut server) = stream();
    let fields = b"SFATAL\0C57P01\0Mshutting down\0\0";
    server.write_all(&message(b'E', fields)).await.expect("write");
    drop(server);
    // The socket is closed: the write fails, and the reason is still read.
    let status =
        StandbyStatus { written: Lsn(1), flushed: Lsn(1), applied: Lsn(1), reply_requested: false };
    encode_status(status, stream.wire.output());
    let error = stream.next().await.expect_err("an error");
    assert_eq!(error.sqlstate_code(), Some("57P01"));
    assert_eq!(error.kind(), Kind::ConnectionLost);
}

#[tokio::test]
async fn status_messages_to_a_server_that_does_not_read_neither_wait_nor_pile_up() {
    let (mut stream, mut server) = stream();
    let status =
        StandbyStatus { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1), reply_requested: false };
    for _ in 0..20_000 {
        stream.send_status(status).await;
    }
    assert!(stream.wire.output().len() <= UNSENT_MAX + 39);
    server.write_all(&frame(9, b"x")).await.expect("write");
    assert!(matches!(stream.next().await, Ok(Event::Frame { .. })));
    // Whole messages only, whatever was cut off in between.
    drop(tokio::join!(stream.wire.flush(), async {
        let mut received = vec![0; 39 * 1000];
        server.read_exact(&mut received).await.expect("read");
        assert!(received.chunks(39).all(|one| one[0] == b'd' && one[5] == b'r'));
        while server.read(&mut received).await.expect("read") == received.len() {}
    }));
}

#[tokio::test]
async fn finish_reads_on_to_the_servers_ready() {
    let (stream, mut server) = stream();
    let mut answer = frame(1, b"too late");
    answer.extend(message(b'c', b""));
    answer.extend(message(b'C', b"COPY 0\0"));
    answer.extend(message(b'Z', b"I"));
    server.write_all(&answer).await.expect("write");
    stream.finish().await.expect("a clean end");
    let mut said = Vec::new();
    server.read_to_end(&mut said).await.expect("read");
    assert_eq!(said, [message(b'c', b""), message(b'X', b"")].concat());
}

/// A frame, and right after it the error that ended the stream: the error was taken up while the
/// frame was still waiting to be handed on, and was forgotten there. What came next was read as if
/// the stream went on.
#[tokio::test]
async fn an_error_that_comes_together_with_a_frame_is_told_after_it() {
    let (stream, mut server) = stream();
    let mut frame = BytesMut::from(&b"w"[..]);
    frame.put_bytes(0, 24);
    let mut messages = Vec::new();
    let mut begin = vec![0];
    trem_wire::codec::encode_begin(
        &mut begin,
        &trem_wire::message::Begin { xid: 1, commit_lsn: Lsn(2), commit_timestamp: 3 },
    );
    frame.extend_from_slice(&begin);
    messages.extend(message(b'd', &frame));
    messages.extend(message(b'E', b"SERROR\0C57014\0Mstopped\0\0"));
    messages.extend(message(b'Z', b"I"));
    server.write_all(&messages).await.expect("the socket takes it");
    let opening = async { Ok((stream, Duration::from_secs(10))) };
    let mut stream = Stream::open(opening, Lsn(1)).await.expect("it is open already");
    let first = stream.next().await.expect("the frame");
    assert!(matches!(first, StreamEvent::Messages { .. }), "{first:?}");
    let error = stream.next().await.expect_err("the stream ended");
    assert_eq!(error.sqlstate_code(), Some("57014"), "{error}");
}
