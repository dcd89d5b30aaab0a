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
