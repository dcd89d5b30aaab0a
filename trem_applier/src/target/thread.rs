//! The thread of a session: its connection lives there, and its jobs run there.
//!
//! A thread, not just tasks: a job sorts and copies tens of thousands of rows between two awaits,
//! while whoever started it goes on with the next group. In a runtime that both share, a new task
//! stays behind the one that spawned it until that one has nothing to do, and the target waits.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::connect::{connect, Client};
use crate::conninfo::ConnInfo;
use crate::error::{Error, Kind, Result};

pub(super) struct Thread {
    handle: Handle,
    /// The thread ends when this is dropped and the connection said goodbye.
    _session: oneshot::Sender<()>,
}

impl Thread {
    /// Opens a connection in a thread of its own.
    pub(super) async fn connect(info: &ConnInfo) -> Result<(Thread, Arc<Client>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (session, dropped) = oneshot::channel();
        let (opened, is_open) = oneshot::channel();
        let info = info.clone();
        let life = async move {
            let (client, driver) = match connect(&info).await {
                Ok(mut client) => {
                    let driver = client.take_driver();
                    (Ok(client), driver)
                }
                Err(error) => (Err(error), None),
            };
            // Whoever gave up waiting drops the client.
            let _ = opened.send(client);
            if let Some(driver) = driver {
                let _ = driver.await;
                // A job may still have to learn that the connection is gone.
                let _ = dropped.await;
            }
        };
        std::thread::Builder::new()
            .name("trem-target".to_owned())
            .spawn(move || runtime.block_on(life))?;
        let client = is_open.await.unwrap_or_else(|_| Err(died()))?;
        Ok((Thread { handle, _session: session }, Arc::new(client)))
    }

    pub(super) fn spawn<F>(&self, job: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(job)
    }
}

fn died() -> Error {
    Error::new(Kind::Internal, "the thread of the target's session died")
}
