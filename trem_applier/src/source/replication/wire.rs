//! Messages of the PostgreSQL protocol over a [`Transport`].
//!
//! Reading may be cancelled at any point: what was received and what is still to be sent lives
//! here, never in a future. Reading also sends what is waiting, so neither side waits for the
//! other's full buffers.

use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::error::{Error, Kind, Result, ServerError};
use crate::transport::Transport;

/// Tag and length.
const HEADER: usize = 5;
/// Space for a read: large enough that a busy stream needs few system calls.
const READ_SIZE: usize = 128 * 1024;
/// With less space than this a new buffer is begun; messages still in use keep the old one.
const READ_SIZE_MIN: usize = 16 * 1024;
/// PostgreSQL allocates no more than 1 GB for a message.
const MESSAGE_SIZE_MAX: usize = 1 << 30;

pub(super) struct Wire {
    transport: Transport,
    input: BytesMut,
    output: BytesMut,
    /// Bytes were written that the TLS layer may still hold.
    unflushed: bool,
}

pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

impl Message {
    /// Itself, unless it is an ErrorResponse.
    pub(super) fn ok(self) -> Result<Self> {
        match self {
            Message { tag: b'E', body } => Err(server_error(body)?),
            message => Ok(message),
        }
    }
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Wire {
        Wire { transport, input: BytesMut::new(), output: BytesMut::new(), unflushed: false }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Where messages to be sent are written.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// A message that was received already, notices left out.
    pub(super) fn read_received(&mut self) -> Result<Option<Message>> {
        while let Some(message) = take_message(&mut self.input)? {
            if message.tag != b'N' {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The next message, notices left out. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.read_received()? {
                return Ok(message);
            }
            let received = poll_fn(|cx| self.poll_exchange(cx)).await?;
            if received == 0 {
                return Err(Error::new(Kind::ConnectionLost, "the server closed the connection"));
            }
        }
    }

    /// The same, an ErrorResponse being an error.
    pub(super) async fn read_ok(&mut self) -> Result<Message> {
        self.read().await?.ok()
    }

    /// Sends everything that waits. Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Sends what goes out without waiting; [`Wire::read`] sends the rest, and tells of a failure.
    pub(super) async fn send_some(&mut self) {
        poll_fn(|cx| {
            // The server's last words come before it.
            let _ = self.poll_send(cx);
            Poll::Ready(())
        })
        .await;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.output.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.output))?;
            if sent == 0 {
                return Poll::Ready(Err(Error::new(Kind::ConnectionLost, "the socket is closed")));
            }
            self.output.advance(sent);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize>> {
        // A failed write is not reported before the server's last words are read.
        let _ = self.poll_send(cx);
        if self.input.capacity() - self.input.len() < READ_SIZE_MIN {
            self.input.reserve(READ_SIZE);
        }
        // The future of read_buf keeps nothing between polls.
        let read = pin!(self.transport.read_buf(&mut self.input));
        read.poll(cx).map_err(Error::from)
    }
}

/// Splits a whole message off the buffer, or makes room for the rest of it.
fn take_message(input: &mut BytesMut) -> Result<Option<Message>> {
    let Some(header) = input.first_chunk::<HEADER>() else { return Ok(None) };
    let [tag, length @ ..] = *header;
    let size = match usize::try_from(u32::from_be_bytes(length)) {
        Ok(length @ 4..=MESSAGE_SIZE_MAX) => length + 1,
        _ => return Err(invalid("length")),
    };
    if input.len() < size {
        input.reserve(size - input.len());
        return Ok(None);
    }
    let mut body = input.split_to(size).freeze();
    body.advance(HEADER);
    Ok(Some(Message { tag, body }))
}

pub(super) fn invalid(what: &str) -> Error {
    Error::new(Kind::Protocol, format!("the server sent a message with an invalid {what}"))
}

/// Text up to a zero byte.
pub(super) fn take_text(body: &mut Bytes) -> Result<String> {
    let end = body.iter().position(|byte| *byte == 0).ok_or_else(|| invalid("text"))?;
    let text = String::from_utf8_lossy(&body[..end]).into_owned();
    body.advance(end + 1);
    Ok(text)
}

/// The error that an ErrorResponse reports.
pub(super) fn server_error(mut body: Bytes) -> Result<Error> {
    let mut fields: Vec<(u8, String)> = Vec::new();
    loop {
        match body.try_get_u8().map_err(|_| invalid("error"))? {
            0 => break,
            field => fields.push((field, take_text(&mut body)?)),
        }
    }
    let get = |wanted| fields.iter().find(|(field, _)| *field == wanted).map(|(_, t)| t.as_str());
    Ok(Error::from(ServerError {
        sqlstate: get(b'C').unwrap_or("XX000"),
        message: get(b'M').unwrap_or_default(),
        detail: get(b'D'),
        hint: get(b'H'),
        table: get(b't'),
        column: get(b'c'),
        constraint: get(b'n'),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        let bytes = b"Z\0\0\0\x05Id\0\0\0\x06ab";
        for cut in 0..bytes.len() {
            let mut input = BytesMut::from(&bytes[..cut]);
            let mut tags = Vec::new();
            while let Some(message) = take_message(&mut input).expect("valid") {
                tags.push((message.tag, message.body));
            }
            assert_eq!(tags.len(), usize::from(cut >= 6));
            input.extend_from_slice(&bytes[cut..]);
            while let Some(message) = take_message(&mut input).expect("valid") {
                tags.push((message.tag, message.body));
            }
            let expected = [(b'Z', Bytes::from_static(b"I")), (b'd', Bytes::from_static(b"ab"))];
            assert_eq!(tags, expected);
            assert!(input.is_empty());
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        for length in [0_u32, 3, 1 << 31, u32::MAX] {
            let mut input = BytesMut::from(&b"d"[..]);
            input.extend_from_slice(&length.to_be_bytes());
            let error = take_message(&mut input).err().expect("an error");
            assert_eq!(error.kind(), Kind::Protocol);
        }
    }

    #[test]
    fn an_error_keeps_its_sqlstate_message_and_hint() {
        let body = Bytes::from_static(b"SERROR\0C42P16\0Mchanged\0DThe detail.\0HDo it.\0\0");
        let error = server_error(body).expect("valid");
        assert_eq!(error.kind(), Kind::TableChanged);
        assert_eq!(error.to_string(), "changed: The detail. (SQLSTATE 42P16)");
        assert_eq!(error.hint_text(), Some("Do it."));
        assert!(server_error(Bytes::from_static(b"Mno end")).is_err());
        assert!(server_error(Bytes::from_static(b"Mno last zero\0")).is_err());
    }
}
