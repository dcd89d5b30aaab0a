//! The SQLSTATEs by which the plugin tells the applier what to do. All are PostgreSQL's own codes,
//! chosen where the server's walsender and decoding raise none of them for another reason.

/// The published definition is not the one the stream was asked for: read it again and restart the
/// stream at a transaction boundary. (invalid_object_definition)
pub const DEFINITION_NOT_CURRENT: &str = "42P17";

/// A table of the task no longer has the shape that was published (DDL): stop the task.
/// (invalid_table_definition)
pub const TABLE_CHANGED: &str = "42P16";

/// A change carries no key, so its row cannot be found on the target: stop the task.
/// (invalid_column_reference)
pub const KEY_NOT_IN_WAL: &str = "42P10";

/// Whether an error is about the session or the server: a lost connection (08, 25), a rolled back
/// transaction (40), a resource that is used up (53), a cancel or a shutdown (57), storage (58),
/// the configuration (F0), a lock that is not free.
///
/// Any other error that comes while an expression runs on a row is that row's failure, whatever it
/// says, for then the same row would fail again. This is the only list: the plugin, the views and
/// the applier tell by it.
#[must_use]
pub fn is_of_the_session(sqlstate: &[u8]) -> bool {
    const CLASSES: [&[u8; 2]; 7] = [b"08", b"25", b"40", b"53", b"57", b"58", b"F0"];
    const LOCK_NOT_AVAILABLE: &[u8; 5] = b"55P03";
    CLASSES.iter().any(|class| sqlstate.starts_with(*class)) || sqlstate == LOCK_NOT_AVAILABLE
}

/// By these names an error of a view says that a rule cannot compute a row: of the fields that
/// every error has for the schema and the constraint it is about.
pub const RULE_FAILED_SCHEMA: &str = "trem";
pub const RULE_FAILED_CONSTRAINT: &str = "rule";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_can_cause_is_not_of_the_session() {
        for code in ["22012", "23514", "54001", "XX000", "XX001", "42883", "0A000", "P0001"] {
            assert!(!is_of_the_session(code.as_bytes()), "{code}");
        }
        for code in ["57014", "57P01", "53200", "53100", "58030", "40001", "55P03", "25P03"] {
            assert!(is_of_the_session(code.as_bytes()), "{code}");
        }
    }
}
