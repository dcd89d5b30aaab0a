//! The stream of a task: receives frames, unpacks and decodes them, and tells the source how far we
//! are, all in a task of its own so that a long apply never keeps the source waiting for a status.
//!
//! Frames of small transactions that arrived together are handed on together, up to
//! [`EVENT_BYTES`]. Memory is bounded: at most [`EVENTS_MAX`] such events wait; then nothing more
//! is read from the socket, and the source's walsender waits. Status still goes out, on a timer.
//!
//! What is confirmed comes from the applier through a watch and is never more than the durable
//! `applied_lsn` on the target.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, MissedTickBehavior};
use trem_wire::codec::decode_frame_into;
use trem_wire::compress::Unpacker;
use trem_wire::message::Message;
use trem_wire::Lsn;

use super::replication::{Event, ReplicationStream, StandbyStatus};
use crate::error::{Error, Kind, Result};

/// Events that wait to be applied.
const EVENTS_MAX: usize = 32;

/// No more frames are added to an event of this size.
const EVENT_BYTES: usize = 64 * 1024;

/// Where the stream is late anyway, small frames are read this far apart: waking up for each of
/// them would cost more than what is in it, here and in the walsender.
const PAUSE: Duration = Duration::from_millis(1);

/// A stream that is less late keeps up.
const LATE_MIN: Duration = Duration::from_millis(40);

/// A position that is newly confirmed is told at once, but no more often than this.
const STATUS_APART: Duration = Duration::from_millis(100);

/// How long a clean end may take before the socket is just closed.
const FINISH_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub enum StreamEvent {
    Messages {
        messages: Vec<Message>,
        /// How long after its commit the last transaction that begins here was sent, by the
        /// source's clock.
        late: Duration,
    },
    /// The source has nothing for us up to here. `asked`: it wants to know our position.
    Passed { position: Lsn, asked: bool },
}

/// The applier's end of the stream.
pub struct Stream {
    events: mpsc::Receiver<StreamEvent>,
    confirmed: watch::Sender<Lsn>,
    pump: JoinHandle<Result<()>>,
}

impl Stream {
    /// Takes the open stream over. `confirmed` is where the slot stands.
    pub fn spawn(stream: ReplicationStream, confirmed: Lsn, status_every: Duration) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (confirmed, watched) = watch::channel(confirmed);
        let pump = Pump {
            stream,
            events: sender,
            confirmed: watched,
            received: Lsn::INVALID,
            late: Duration::ZERO,
            sent_at: Instant::now(),
            failure: None,
        };
        let pump = tokio::spawn(pump.run(status_every));
        Stream { events, confirmed, pump }
    }

    /// The next event; an error when the stream ended.
    pub async fn next(&mut self) -> Result<StreamEvent> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => Err(self.end().await),
        }
    }

    /// An event that is already here.
    pub fn try_next(&mut self) -> Option<StreamEvent> {
        self.events.try_recv().ok()
    }

    /// Everything before this position is durable on the target.
    pub fn confirm(&self, lsn: Lsn) {
        self.confirmed.send_if_modified(|confirmed| {
            let moves = lsn > *confirmed;
            *confirmed = lsn.max(*confirmed);
            moves
        });
    }

    async fn end(&mut self) -> Error {
        let lost = || Error::new(Kind::ConnectionLost, "the replication stream ended");
        match (&mut self.pump).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => lost(),
            Err(_) => Error::new(Kind::Internal, "the task that reads the stream died"),
        }
    }

    /// Ends the stream cleanly, so that the slot is free: the last confirmed position is sent.
    pub async fn finish(self) -> Result<()> {
        drop(self.events);
        drop(self.confirmed);
        match tokio::time::timeout(FINISH_MAX, self.pump).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

struct Pump {
    stream: ReplicationStream,
    events: mpsc::Sender<StreamEvent>,
    confirmed: watch::Receiver<Lsn>,
    received: Lsn,
    late: Duration,
    sent_at: Instant,
    /// Why the stream ended, once everything before is handed on.
    failure: Option<Error>,
}

impl Pump {
    async fn run(mut self, status_every: Duration) -> Result<()> {
        let mut unpacker = Unpacker::new()?;
        let mut timer = interval(status_every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pause, mut pauses) = (pin!(tokio::time::sleep(PAUSE)), false);
        let events = self.events.clone();
        let mut waiting: VecDeque<StreamEvent> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                if let Some(failure) = self.failure.take() {
                    return Err(failure);
                }
            }
            tokio::select! {
                permit = events.reserve(), if !waiting.is_empty() => {
                    match (permit, waiting.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        _ => return self.finish().await,
                    }
                }
                event = self.stream.next(), if waiting.is_empty() && !pauses => {
                    pauses = self.received(event?, &mut unpacker, &mut waiting).await?;
                    pause.as_mut().reset((Instant::now() + PAUSE).into());
                }
                () = &mut pause, if pauses => pauses = false,
                () = events.closed() => return self.finish().await,
                _ = timer.tick() => self.send_status().await?,
                Ok(()) = self.confirmed.changed(), if self.sent_at.elapsed() >= STATUS_APART => {
                    self.send_status().await?;
                }
            }
        }
    }

    /// Takes in an event and those that came with it. Says whether to wait a little before more is
    /// read.
    async fn received(
        &mut self,
        event: Event,
        unpacker: &mut Unpacker,
        waiting: &mut VecDeque<StreamEvent>,
    ) -> Result<bool> {
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Frame { wal_start, sent_at, payload, .. } => {
                    self.received = self.received.max(wal_start);
                    let frame = unpacker.unpack(&payload)?;
                    bytes += frame.len();
                    decode_frame_into(&frame, &mut messages)?;
                    self.late = lateness(&messages, sent_at).unwrap_or(self.late);
                }
                Event::Keepalive { wal_end, reply_requested } => {
                    self.received = self.received.max(wal_end);
                    if reply_requested {
                        self.send_status().await?;
                    }
                    self.hand_on(&mut messages, waiting);
                    waiting.push_back(StreamEvent::Passed {
                        position: wal_end,
                        asked: reply_requested,
                    });
                }
                Event::Ended => {
                    let message = "the source ended the replication stream";
                    self.failure = Some(Error::new(Kind::ConnectionLost, message));
                }
            }
            if bytes >= EVENT_BYTES || self.failure.is_some() {
                break;
            }
            next = self.stream.next_received().unwrap_or_else(|error| {
                self.failure = Some(error);
                None
            });
        }
        let is_over = waiting.is_empty();
        self.hand_on(&mut messages, waiting);
        Ok(is_over && bytes < EVENT_BYTES && self.late >= LATE_MIN)
    }

    fn hand_on(&self, messages: &mut Vec<Message>, waiting: &mut VecDeque<StreamEvent>) {
        if !messages.is_empty() {
            let messages = std::mem::take(messages);
            waiting.push_back(StreamEvent::Messages { messages, late: self.late });
        }
    }

    async fn send_status(&mut self) -> Result<()> {
        let confirmed = *self.confirmed.borrow_and_update();
        self.sent_at = Instant::now();
        self.stream
            .send_status(StandbyStatus {
                written: self.received.max(confirmed),
                flushed: confirmed,
                applied: confirmed,
                reply_requested: false,
            })
            .await
    }

    async fn finish(mut self) -> Result<()> {
        self.send_status().await?;
        self.stream.finish().await
    }
}

/// How long after its commit the last of these transactions was sent.
fn lateness(messages: &[Message], sent_at: i64) -> Option<Duration> {
    let begin = messages.iter().rev().find_map(|message| match message {
        Message::Begin(begin) => Some(begin),
        _ => None,
    })?;
    let micros = u64::try_from(sent_at.saturating_sub(begin.commit_timestamp)).unwrap_or(0);
    Some(Duration::from_micros(micros))
}
