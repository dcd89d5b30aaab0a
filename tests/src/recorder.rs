//! A proxy in front of a server that keeps every byte that passes: what is on the wire, and what is
//! not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The name of a server's socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";

type Bytes = Arc<Mutex<Vec<Vec<u8>>>>;

/// Listens in a folder of its own. Its threads end with the connections that they serve.
pub struct Recorder {
    folder: PathBuf,
    /// One recording for each connection and direction: bytes of two never mix.
    recordings: Bytes,
}

impl Recorder {
    /// Stands in front of the server whose socket is in `server`.
    #[must_use]
    pub fn new(folder: PathBuf, server: &Path) -> Self {
        std::fs::create_dir_all(&folder).expect("a folder for the recorder");
        let listener = UnixListener::bind(folder.join(SOCKET)).expect("a socket to listen on");
        let recordings = Bytes::default();
        let (server, kept) = (server.join(SOCKET), Arc::clone(&recordings));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A server that is down is the client's to notice.
                let Ok(server) = UnixStream::connect(&server) else { continue };
                pass(&client, &server, &kept);
                pass(&server, &client, &kept);
            }
        });
        Recorder { folder, recordings }
    }

    /// Where to connect instead.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How often `part` passed, in either direction. A part that was cut by a write still counts.
    #[must_use]
    pub fn count(&self, part: &[u8]) -> usize {
        let recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |bytes: &Vec<u8>| bytes.windows(part.len()).filter(|w| *w == part).count();
        recordings.iter().map(found).sum()
    }

    /// How many bytes passed.
    #[must_use]
    pub fn total(&self) -> usize {
        let recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        recordings.iter().map(Vec::len).sum()
    }

    /// The text around the first place where `part` passed, for a message.
    #[must_use]
    pub fn around(&self, part: &[u8]) -> String {
        let recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |bytes: &Vec<u8>| {
            let at = bytes.windows(part.len()).position(|w| w == part)?;
            let end = bytes.len().min(at + part.len() + 100);
            let shown = &bytes[at.saturating_sub(200)..end];
            Some(String::from_utf8_lossy(shown).escape_debug().to_string())
        };
        recordings.iter().find_map(find).unwrap_or_default()
    }
}

/// Carries bytes one way, and the end of the connection, keeping the bytes.
fn pass(from: &UnixStream, to: &UnixStream, recordings: &Bytes) {
    let (mut from, mut to) = (
        from.try_clone().expect("a second handle of a socket"),
        to.try_clone().expect("a second handle of a socket"),
    );
    let recordings = Arc::clone(recordings);
    let mut kept = recordings.lock().unwrap_or_else(PoisonError::into_inner);
    let number = kept.len();
    kept.push(Vec::new());
    drop(kept);
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..count];
            let mut kept = recordings.lock().unwrap_or_else(PoisonError::into_inner);
            kept[number].extend_from_slice(bytes);
            drop(kept);
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
