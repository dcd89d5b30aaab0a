//! Statements sent ahead of their results.
//!
//! A statement is on its way as soon as it is sent; its result is read later, in the order of
//! sending. tokio-postgres writes a request on the first poll of its future, so each future is
//! polled once when it is sent and then waits its turn here.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use tokio_postgres::Statement;
use trem_wire::message::Relation;

use crate::connect::Client;
use crate::error::Result;
use crate::value::Value;

/// A result, or an error, or not there yet.
pub(super) type Sent =
    Pin<Box<dyn Future<Output = std::result::Result<u64, tokio_postgres::Error>> + Send>>;

/// What a statement's row count must be, and for which table it is counted.
pub(super) enum Expect {
    /// BEGIN, COMMIT, TRUNCATE: the count means nothing.
    Anything,
    /// The compare-and-set: fails by itself when progress is not ours.
    Progress,
    Inserted(Arc<Relation>),
    Updated(Arc<Relation>),
    Deleted(Arc<Relation>),
    /// Many rows with one statement, each of them there.
    UpdatedAll(Arc<Relation>, u64),
    DeletedAll(Arc<Relation>, u64),
    /// No row: the one with this key is read again.
    UpdatedOrWanted(Arc<Relation>, Bytes),
}

struct InFlight {
    state: State,
    expect: Expect,
    bytes: usize,
}

enum State {
    /// Taken out to be awaited; the lock only makes it shareable between threads.
    Waiting(Mutex<Sent>),
    Done(std::result::Result<u64, tokio_postgres::Error>),
}

pub(super) struct Pipeline {
    client: Arc<Client>,
    in_flight: VecDeque<InFlight>,
    /// Of the parameters of what is in flight.
    bytes: usize,
}

impl Pipeline {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Pipeline { client, in_flight: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of parameters in flight.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A result that is still to come may be wrong without being an error of the server: an update
    /// that finds no row, or a statement that was never sent. Until it is read nothing may be
    /// committed.
    pub(super) fn must_be_read(&self) -> bool {
        self.in_flight.iter().any(|sent| match sent.expect {
            _ if matches!(sent.state, State::Done(Err(_))) => true,
            Expect::Updated(_) | Expect::UpdatedAll(..) | Expect::UpdatedOrWanted(..) => true,
            Expect::Anything
            | Expect::Progress
            | Expect::Inserted(_)
            | Expect::Deleted(_)
            | Expect::DeletedAll(..) => false,
        })
    }

    pub(super) async fn send(&mut self, sent: Sent, expect: Expect) {
        self.send_bytes(sent, expect, 0).await;
    }

    async fn send_bytes(&mut self, mut sent: Sent, expect: Expect, bytes: usize) {
        let state = match poll_immediate(&mut sent).await {
            Some(result) => State::Done(result),
            None => State::Waiting(Mutex::new(sent)),
        };
        self.bytes += bytes;
        self.in_flight.push_back(InFlight { state, expect, bytes });
    }

    pub(super) async fn send_simple(&mut self, sql: String) {
        let client = Arc::clone(&self.client);
        let sent = async move { client.batch_execute(&sql).await.map(|()| 0) };
        self.send(Box::pin(sent), Expect::Anything).await;
    }

    pub(super) async fn send_row(
        &mut self,
        statement: &Statement,
        values: Vec<Value>,
        expect: Expect,
    ) {
        let client = Arc::clone(&self.client);
        let statement = statement.clone();
        let bytes = values.iter().map(Value::len).sum();
        let sent = async move { client.execute_raw(&statement, values).await };
        self.send_bytes(Box::pin(sent), expect, bytes).await;
    }

    /// The result of the oldest statement; `None` when none is in flight.
    pub(super) async fn next(&mut self) -> Option<(Result<u64>, Expect)> {
        let InFlight { state, expect, bytes } = self.in_flight.pop_front()?;
        self.bytes -= bytes;
        let result = match state {
            State::Done(result) => result,
            State::Waiting(sent) => sent.into_inner().expect("nobody holds the lock").await,
        };
        Some((result.map_err(Into::into), expect))
    }
}
