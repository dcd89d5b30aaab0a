//! Counts the bytes of connections to a server, on the way through a socket of its own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

/// Listens beside a cluster and passes on to it. Lives as long as the bench.
pub(crate) struct Proxy {
    folder: PathBuf,
    from_server: Arc<AtomicU64>,
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Proxy {
    /// A proxy in front of the cluster in `server`; the socket is in `server/proxy`.
    pub(crate) fn start(server: &Path) -> Self {
        let folder = server.join("proxy");
        std::fs::create_dir(&folder).expect("a folder for the proxy's socket");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket for the proxy");
        let from_server = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&from_server);
        let behind = server.join(SOCKET);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = UnixStream::connect(&behind).expect("to connect to the server");
                join(&client, &server, &counted);
            }
        });
        Proxy { folder, from_server }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that the server has sent since the last call.
    pub(crate) fn take_bytes(&self) -> u64 {
        self.from_server.swap(0, Ordering::SeqCst)
    }
}

fn join(client: &UnixStream, server: &UnixStream, from_server: &Arc<AtomicU64>) {
    let to_server = Arc::new(AtomicU64::new(0));
    for (from, to, counted) in [(client, server, &to_server), (server, client, from_server)] {
        let from = from.try_clone().expect("a second handle of a socket");
        let to = to.try_clone().expect("a second handle of a socket");
        let counted = Arc::clone(counted);
        thread::spawn(move || pass_on(from, to, &counted));
    }
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    // Counted before it is passed on: whoever has received the end finds all of it counted.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
