//! The program under test as a process.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::places;
use crate::wait::wait_for_value;

/// A running `trem-applier`. Killed when dropped.
pub struct Applier {
    child: Child,
    log: PathBuf,
}

/// How it ended, and everything it printed.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub log: String,
}

impl Applier {
    /// Starts the program; what it prints goes to the file `log`.
    #[must_use]
    pub fn start(arguments: &[&str], environment: &[(&str, &str)], log: PathBuf) -> Self {
        let output = File::create(&log).expect("a file for the applier's log");
        let child = Command::new(places::applier())
            .args(arguments)
            .envs(environment.iter().copied())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output)
            .spawn()
            .expect("to start trem-applier");
        Applier { child, log }
    }

    /// Its process, for /proc.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<Outcome> {
        let status = self.child.try_wait().expect("the state of a child process");
        status.map(|status| self.outcome(status))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Outcome {
        wait_for_value("the applier to end", || self.ended())
    }

    /// Waits for a line of the log that holds `part`.
    pub fn wait_for_log(&mut self, part: &str) {
        wait_for_value(&format!("the applier to log \"{part}\""), || {
            let found = self.log().contains(part).then_some(());
            if let (None, Some(outcome)) = (found, self.ended()) {
                panic!("the applier ended before it logged \"{part}\": {outcome:#?}");
            }
            found
        });
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill(&mut self) {
        self.child.kill().expect("to kill a child process");
        self.child.wait().expect("a killed process ends");
    }

    /// It does nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        // The shell has a `kill` of its own; the program may be missing.
        places::output(Command::new("sh").args(["-c", "kill -\"$1\" \"$0\"", &pid, name]));
    }

    /// SIGTERM, and waits for the end, which must be a clean one.
    pub fn terminate(&mut self) {
        self.signal("TERM");
        let outcome = self.wait();
        assert_eq!(outcome.code, Some(0), "after SIGTERM; log:\n{}", outcome.log);
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        Outcome { code: status.code(), log: self.log() }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        // It may have ended long ago, and then there is nothing to do.
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}

impl Outcome {
    /// Fails the test unless the program ended with `code`.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code; log:\n{}", self.log);
        self
    }

    /// Fails the test unless the log holds each of `parts`.
    #[track_caller]
    pub fn assert_says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.log.contains(part), "\"{part}\" is missing in the log:\n{}", self.log);
        }
        self
    }
}

pub(crate) fn read(log: &std::path::Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
