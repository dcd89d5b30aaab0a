//! Where things are: the checkout, the server's programs, the applier, and a test's own folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

/// The checkout.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is below the checkout")
}

fn pg_config() -> PathBuf {
    let named = std::env::var_os("TREM_PG_CONFIG").map(PathBuf::from);
    let path = named.unwrap_or_else(|| root().join(".work/pg_config"));
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

/// The folder of the server's programs.
#[must_use]
pub fn server_programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| PathBuf::from(output(Command::new(pg_config()).arg("--bindir")).trim()))
}

/// Where the server has the scripts of extensions.
#[must_use]
pub fn extension_scripts() -> PathBuf {
    Path::new(output(Command::new(pg_config()).arg("--sharedir")).trim()).join("extension")
}

/// The folder that holds the copy of the server: both we and the server's user can read it.
pub(crate) fn server_root() -> PathBuf {
    let path = pg_config().canonicalize().expect("the path of pg_config");
    path.parent().expect("pg_config is in a folder").to_owned()
}

/// The program under test.
pub(crate) fn applier() -> PathBuf {
    if let Some(path) = std::env::var_os("TREM_APPLIER") {
        return path.into();
    }
    let target = std::env::current_exe().expect("the path of the test program");
    let target = target.ancestors().nth(3).expect("tests run from target/<profile>/deps");
    let built = |profile: &str| {
        let path = target.join(profile).join("trem-applier");
        let built_at = path.metadata().and_then(|file| file.modified()).ok()?;
        Some((built_at, path))
    };
    let newest = [built("release"), built("debug")].into_iter().flatten().max();
    newest.expect("trem-applier is not built: run `make build`, or set TREM_APPLIER").1
}

/// A new folder for one test, in /tmp because the path of a socket holds 107 bytes at most.
pub(crate) fn new_test_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::var_os("TREM_RUN_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = parent.join(format!("trem-e2e-{}-{count}", std::process::id()));
    std::fs::create_dir(&folder).expect("a new folder for the test");
    give_to_server_user(&folder);
    folder
}

/// Where the logs of a failed test are kept.
pub(crate) fn failed_folder(test: &str) -> PathBuf {
    root().join(".work/failed").join(test.replace("::", "-"))
}

pub(crate) fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| output(Command::new("id").arg("-u")).trim() == "0")
}

/// PostgreSQL refuses to run as root; its files then belong to the user "postgres".
pub(crate) fn give_to_server_user(path: &Path) {
    if is_root() {
        output(Command::new("chown").arg("-R").arg("postgres").arg(path));
    }
}

/// What a command that must succeed prints.
pub fn output(command: &mut Command) -> String {
    let result = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        result.status.success(),
        "{command:?} failed: {}{}",
        text(&result.stdout),
        text(&result.stderr)
    );
    text(&result.stdout)
}

/// The name of the running test, for messages and folders.
pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("unnamed").to_owned()
}
