//! What a check found, on whichever side.

use crate::error::{Error, Kind, Result};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    pub fn parse(text: &str) -> Self {
        match text {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            _ => Severity::Info,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub severity: Severity,
    pub table: Option<String>,
    pub check: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Finding {
    pub fn error(table: &str, check: &str, message: impl Into<String>) -> Self {
        Finding {
            severity: Severity::Error,
            table: (!table.is_empty()).then(|| table.to_owned()),
            check: check.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn warning(table: &str, check: &str, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, ..Finding::error(table, check, message) }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One line: where, what.
    pub fn line(&self) -> String {
        match &self.table {
            Some(table) => format!("{table}: {}", self.message),
            None => self.message.clone(),
        }
    }
}

/// One error that lists every finding of severity error; `Ok` if there is none.
pub fn refuse(findings: &[Finding]) -> Result<()> {
    let errors: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
    let Some(first) = errors.first() else { return Ok(()) };
    let message = match errors.len() {
        1 => first.line(),
        count => {
            let lines: Vec<_> = errors.iter().map(|finding| finding.line()).collect();
            format!("{count} checks failed: {}", lines.join("; "))
        }
    };
    let mut hints: Vec<&str> = Vec::new();
    for hint in errors.iter().filter_map(|finding| finding.hint.as_deref()) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    let error = Error::new(Kind::Check, message);
    Err(if hints.is_empty() { error } else { error.hint(hints.join(" ")) })
}
