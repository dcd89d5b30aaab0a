//! The request to stop, as every long wait sees it.

use tokio::sync::watch;

/// Clones see the same request.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A request that can be made through the sender. Dropping the sender counts as one.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Stop(receiver))
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is asked to stop; at once if it was before.
    pub async fn asked(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
