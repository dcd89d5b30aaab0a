//! One session, for statements of a test. What a test expects to work panics when it does not.

use std::fmt;

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// An open connection to one database.
pub struct Database {
    client: Client,
}

/// An error of the server, as a person sees it.
#[derive(Debug)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Database {
    /// Connects, or says why not.
    pub fn try_connect(config: &Config) -> Result<Self, Failure> {
        config.connect(NoTls).map(|client| Database { client }).map_err(|e| Failure::from(&e))
    }

    /// Runs statements; several, separated by semicolons, are one transaction.
    pub fn exec(&mut self, sql: &str) {
        if let Err(failure) = self.try_exec(sql) {
            panic!("{failure}\nin: {sql}");
        }
    }

    pub fn try_exec(&mut self, sql: &str) -> Result<(), Failure> {
        self.client.batch_execute(sql).map_err(|error| Failure::from(&error))
    }

    /// Runs a statement that must fail.
    pub fn failure(&mut self, sql: &str) -> Failure {
        match self.try_exec(sql) {
            Ok(()) => panic!("this should have failed: {sql}"),
            Err(failure) => failure,
        }
    }

    /// The rows of a query as text; NULL is `None`.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let messages = self.client.simple_query(sql).map_err(|error| Failure::from(&error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).unwrap_or_else(|failure| panic!("{failure}\nin: {sql}"))
    }

    /// The first column of the first row as text; `None` for NULL and for no row.
    pub fn value(&mut self, sql: &str) -> Option<String> {
        self.rows(sql).into_iter().next().and_then(|row| row.into_iter().next().flatten())
    }

    /// [`value`](Self::value) of a query that has one.
    pub fn text(&mut self, sql: &str) -> String {
        self.value(sql).unwrap_or_else(|| panic!("no value from: {sql}"))
    }

    pub fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql);
        text.parse().unwrap_or_else(|_| panic!("\"{text}\" is no number, from: {sql}"))
    }

    /// Whether a query gives `true`; no row and NULL are `false`.
    pub fn holds(&mut self, sql: &str) -> bool {
        self.value(sql).as_deref() == Some("t")
    }

    /// Everything a `COPY … TO STDOUT` sends.
    pub fn copy_out(&mut self, sql: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let copied =
            self.client.copy_out(sql).map_err(|error| Failure::from(&error).to_string()).and_then(
                |mut from| std::io::copy(&mut from, &mut bytes).map_err(|error| error.to_string()),
            );
        if let Err(error) = copied {
            panic!("{error}\nin: {sql}");
        }
        bytes
    }
}

impl From<&postgres::Error> for Failure {
    fn from(error: &postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Failure {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
                detail: db.detail().unwrap_or_default().to_owned(),
                hint: db.hint().unwrap_or_default().to_owned(),
            },
            None => Failure {
                sqlstate: String::new(),
                message: error.to_string(),
                detail: String::new(),
                hint: String::new(),
            },
        }
    }
}

impl Failure {
    /// Everything a person sees of it.
    #[must_use]
    pub fn everything(&self) -> String {
        format!("{}\n{}\n{}", self.message, self.detail, self.hint)
    }

    /// Fails the test unless message, detail and hint together hold each of `parts`.
    #[track_caller]
    pub fn assert_says(&self, parts: &[&str]) {
        let text = self.everything();
        for part in parts {
            assert!(text.contains(part), "\"{part}\" is missing in: {self}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)?;
        if !self.detail.is_empty() {
            write!(f, "\ndetail: {}", self.detail)?;
        }
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}
