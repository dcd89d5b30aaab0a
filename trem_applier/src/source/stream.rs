//! The stream of a task: receives frames, unpacks and decodes them, and tells the source how far
//! we are, all in a thread of its own, so that a long apply never keeps the source waiting for a
//! status.
//!
//! A thread, not just a task: where the stream is late, frames are read a few milliseconds apart,
//! and the thread must really sleep then. A runtime that others share waits for its sockets
//! meanwhile and is woken by every frame that arrives, ten thousand times a second, and each time
//! the walsender gives its processor up.
//!
//! Frames of small transactions that arrived together are unpacked into one piece of memory and
//! handed on together, up to [`EVENT_BYTES`]. Memory is bounded: at most [`EVENTS_MAX`] such events
//! wait, and an event that is larger counts as several; then nothing more is read from the socket,
//! and the source's walsender waits. Status still goes out, on a timer.
//!
//! A [`Stream`] that is dropped closes its socket, and so does one whose clean end takes too long:
//! a walsender that is deep in a large transaction would go on sending, and keep the slot.
//!
//! What is confirmed comes from the applier through a watch and is never more than the durable
//! `applied_lsn` on the target.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch, OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{interval, sleep, MissedTickBehavior};
use trem_wire::codec::{decode_frame, FRAME_BYTES};
use trem_wire::compress::Unpacker;
use trem_wire::message::Message;
use trem_wire::Lsn;

use super::replication::{Event, ReplicationStream, StandbyStatus};
use crate::error::{Error, Kind, Result};

/// Events that wait to be applied, each of [`EVENT_BYTES`].
const EVENTS_MAX: usize = 32;

/// No more frames are added to an event of this size.
const EVENT_BYTES: usize = 64 * 1024;

/// Where the stream is late anyway, frames are read this far apart: waking up for each of them
/// would cost more than what is in it, here, in the walsender and on the target.
const PAUSE_LONG: Duration = Duration::from_millis(4);

/// The same when so much comes in one pause that a longer one could fill the socket.
const PAUSE: Duration = Duration::from_millis(1);

/// About half of what the kernel lets a Unix socket hold.
const SOCKET_BYTES_FEW: usize = 96 * 1024;

/// What the kernel needs to keep a small message.
const SOCKET_BYTES_EACH: usize = 1024;

/// A stream that is less late keeps up.
const LATE_MIN: Duration = Duration::from_millis(40);

/// How long the thread waits for room before it looks whether a status is due.
const ROOM_WAIT: Duration = Duration::from_millis(100);

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

/// An event, and the room that it takes until somebody takes it.
type Waiting = (StreamEvent, OwnedSemaphorePermit);

/// The applier's end of the stream.
pub struct Stream {
    events: mpsc::UnboundedReceiver<Waiting>,
    confirmed: watch::Sender<Lsn>,
    /// How the thread ended.
    ended: oneshot::Receiver<Result<()>>,
}

impl Stream {
    /// Opens a stream in its thread. `opening` gives it, and how often the source wants a status;
    /// `confirmed` is where the slot stands.
    pub async fn open<F>(opening: F, confirmed: Lsn) -> Result<Self>
    where
        F: Future<Output = Result<(ReplicationStream, Duration)>> + Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (sender, events) = mpsc::unbounded_channel();
        let (confirmed, watched) = watch::channel(confirmed);
        let (opened, is_open) = oneshot::channel();
        let (mut end, ended) = oneshot::channel();
        let life = async move {
            let (stream, status_every) = match opening.await {
                Ok(stream) => stream,
                // Whoever gave up waiting does not want to know.
                Err(error) => return opened.send(Err(error)).unwrap_or_default(),
            };
            let pump = Pump {
                stream,
                events: sender,
                room: Arc::new(Semaphore::new(EVENTS_MAX)),
                waiting: VecDeque::new(),
                confirmed: watched,
                received: Lsn::INVALID,
                late: Duration::ZERO,
                frames: Vec::new(),
                at_once: 0,
                frame_sent_at: 0,
                sent_at: Instant::now(),
                failure: None,
            };
            let _ = opened.send(Ok(()));
            let ran = tokio::select! {
                biased;
                () = end.closed() => return,
                ran = pump.run(status_every) => ran,
            };
            let _ = end.send(ran);
        };
        let named = thread::Builder::new().name("trem-stream".to_owned());
        named.spawn(move || runtime.block_on(life))?;
        is_open.await.unwrap_or_else(|_| Err(died()))?;
        Ok(Stream { events, confirmed, ended })
    }

    /// The next event; an error when the stream ended.
    pub async fn next(&mut self) -> Result<StreamEvent> {
        match self.events.recv().await {
            Some((event, _)) => Ok(event),
            None => Err(self.end().await),
        }
    }

    /// An event that is already here.
    pub fn try_next(&mut self) -> Option<StreamEvent> {
        self.events.try_recv().ok().map(|(event, _)| event)
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
        match (&mut self.ended).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => lost(),
            Err(_) => died(),
        }
    }

    /// Ends the stream cleanly, so that the slot is free: the last confirmed position is sent.
    pub async fn finish(self) -> Result<()> {
        drop(self.events);
        drop(self.confirmed);
        match tokio::time::timeout(FINISH_MAX, self.ended).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

struct Pump {
    stream: ReplicationStream,
    events: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    /// Events for which there is no room, with what they take of it.
    waiting: VecDeque<(StreamEvent, u32)>,
    confirmed: watch::Receiver<Lsn>,
    received: Lsn,
    late: Duration,
    /// Frames that arrived together, unpacked.
    frames: Vec<u8>,
    /// Bytes that the socket held, since the last pause.
    at_once: usize,
    /// When the source sent the last of them.
    frame_sent_at: i64,
    sent_at: Instant,
    /// Why the stream ended, once everything before is handed on.
    failure: Option<Error>,
}

impl Pump {
    async fn run(mut self, status_every: Duration) -> Result<()> {
        let mut unpacker = Unpacker::new()?;
        let mut timer = interval(status_every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.hand_on_waiting();
            if self.waiting.is_empty() {
                if let Some(failure) = self.failure.take() {
                    return Err(failure);
                }
                if self.late >= LATE_MIN && self.at_once > 0 {
                    if let Some(event) = self.stream.next().now_or_never() {
                        self.received(event?, &mut unpacker).await?;
                        continue;
                    }
                    // Nothing else runs in this thread.
                    let few = self.at_once < SOCKET_BYTES_FEW;
                    thread::sleep(if few { PAUSE_LONG } else { PAUSE });
                    self.at_once = 0;
                }
            }
            tokio::select! {
                biased;
                () = self.events.closed() => return self.finish().await,
                _ = timer.tick() => self.send_status().await,
                Ok(()) = moved(&mut self.confirmed, self.sent_at) => self.send_status().await,
                event = self.stream.next(), if self.waiting.is_empty() => {
                    self.received(event?, &mut unpacker).await?;
                }
                // Time passes in the runtime only when it is given its turn.
                () = yield_now(), if !self.waiting.is_empty() => {}
            }
        }
    }

    /// Hands on what there is room for, and waits for more of it if that is not all.
    fn hand_on_waiting(&mut self) {
        while let Some((_, takes)) = self.waiting.front() {
            let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(*takes) else {
                wait_for_room(&self.room, *takes);
                return;
            };
            if let Some((event, _)) = self.waiting.pop_front() {
                // Nobody may be there any more: that is looked at next.
                let _ = self.events.send((event, room));
            }
        }
    }

    fn push(&mut self, event: StreamEvent, bytes: usize) {
        let takes = bytes.div_ceil(EVENT_BYTES).clamp(1, EVENTS_MAX);
        self.waiting.push_back((event, takes as u32));
    }

    /// Takes in an event and those that came with it.
    async fn received(&mut self, event: Event, unpacker: &mut Unpacker) -> Result<()> {
        self.frames.clear();
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Frame { wal_start, sent_at, payload, .. } => {
                    self.received = self.received.max(wal_start);
                    self.frame_sent_at = sent_at;
                    self.at_once += payload.len() + SOCKET_BYTES_EACH;
                    unpacker.unpack_into(&payload, &mut self.frames)?;
                }
                Event::Keepalive { wal_end, reply_requested } => {
                    self.received = self.received.max(wal_end);
                    if reply_requested {
                        self.send_status().await;
                    }
                    self.decode()?;
                    self.push(StreamEvent::Passed { position: wal_end, asked: reply_requested }, 0);
                }
                Event::Ended => {
                    let message = "the source ended the replication stream";
                    self.failure = Some(Error::new(Kind::ConnectionLost, message));
                }
            }
            if self.frames.len() >= EVENT_BYTES || self.failure.is_some() {
                break;
            }
            next = self.stream.next_received().unwrap_or_else(|error| {
                self.failure = Some(error);
                None
            });
        }
        self.decode()
    }

    /// Decodes the frames, in memory of about their length: they may be kept for a while.
    fn decode(&mut self) -> Result<()> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let frames = match self.frames.len() >= EVENT_BYTES {
            true => {
                let space = Vec::with_capacity(EVENT_BYTES + FRAME_BYTES);
                std::mem::replace(&mut self.frames, space).into()
            }
            false => Bytes::copy_from_slice(&self.frames),
        };
        self.frames.clear();
        let messages = decode_frame(&frames)?;
        self.late = lateness(&messages, self.frame_sent_at).unwrap_or(self.late);
        self.push(StreamEvent::Messages { messages, late: self.late }, frames.len());
        Ok(())
    }

    async fn send_status(&mut self) {
        let confirmed = *self.confirmed.borrow_and_update();
        self.sent_at = Instant::now();
        self.stream
            .send_status(StandbyStatus {
                written: self.received.max(confirmed),
                flushed: confirmed,
                applied: confirmed,
                reply_requested: false,
            })
            .await;
    }

    async fn finish(mut self) -> Result<()> {
        self.send_status().await;
        self.stream.finish().await
    }
}

fn died() -> Error {
    Error::new(Kind::Internal, "the thread that reads the stream died")
}

/// A position was newly confirmed, and the last status is long enough ago.
async fn moved(
    confirmed: &mut watch::Receiver<Lsn>,
    sent_at: Instant,
) -> Result<(), watch::error::RecvError> {
    let apart = STATUS_APART.saturating_sub(sent_at.elapsed());
    if !apart.is_zero() {
        sleep(apart).await;
    }
    confirmed.changed().await
}

/// Waits until there is this much room, or half of all, or for a while. The thread really sleeps:
/// nothing else runs in it, and in the runtime it would be woken by every frame that arrives.
fn wait_for_room(room: &Semaphore, takes: u32) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let wanted = takes.max(EVENTS_MAX as u32 / 2);
    let mut room = pin!(tokio::task::unconstrained(room.acquire_many(wanted)));
    let until = Instant::now() + ROOM_WAIT;
    while room.as_mut().poll(&mut context).is_pending() {
        match until.checked_duration_since(Instant::now()) {
            Some(left) => thread::park_timeout(left),
            None => return,
        }
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
