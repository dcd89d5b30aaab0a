//! One thing that `check_task` found.

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub severity: Severity,
    /// The source table, as SQL names it; `None`: about the server or the task.
    pub table: Option<String>,
    /// A short name of what was checked.
    pub check: &'static str,
    pub message: String,
    pub hint: String,
}

impl Problem {
    pub(crate) fn new(
        severity: Severity,
        check: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Problem { severity, table: None, check, message: message.into(), hint: hint.into() }
    }

    pub(crate) fn error(
        check: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Problem::new(Severity::Error, check, message, hint)
    }

    pub(crate) fn warning(
        check: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Problem::new(Severity::Warning, check, message, hint)
    }

    pub(crate) fn info(
        check: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Problem::new(Severity::Info, check, message, hint)
    }

    pub(crate) fn of(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// As one line of a message.
    pub(crate) fn line(&self) -> String {
        match &self.table {
            Some(table) => format!("{table}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// As one line of an error's detail: with what to do.
    pub(crate) fn line_with_remedy(&self) -> String {
        match self.hint.as_str() {
            "" => self.line(),
            hint => format!("{}\n    {hint}", self.line()),
        }
    }
}
