//! The password file, `~/.pgpass`, with libpq's rules (fe-connect.c, passwordFromFile): the first
//! line whose four fields match gives the password, and a file that others may read is not used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a line must match.
pub(super) struct Wanted<'a> {
    /// `localhost` also stands for the default Unix socket folder.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// None when the file is missing, unsafe or has no line for it.
pub(super) fn password(path: &Path, wanted: &Wanted<'_>) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(file = %path.display(), "password file is not a plain file: not used");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            "password file can be read by others: not used; permissions must be 0600 or less"
        );
        return None;
    }
    let content = std::fs::read_to_string(path)
        .inspect_err(|error| tracing::warn!(file = %path.display(), %error, "cannot read"))
        .ok()?;
    content.lines().find_map(|line| password_of_line(line, wanted))
}

fn password_of_line(line: &str, wanted: &Wanted<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line.trim_end_matches('\r');
    for value in [wanted.host, &port, wanted.dbname, wanted.user] {
        let (field, after) = take_field(rest)?;
        if !(matches!(&field, Field::Any) || matches!(&field, Field::Text(text) if text == value)) {
            return None;
        }
        rest = after;
    }
    let password = unescape(rest);
    (!password.is_empty()).then_some(password)
}

enum Field {
    Any,
    Text(String),
}

/// The field up to the next colon that no backslash protects.
fn take_field(text: &str) -> Option<(Field, &str)> {
    let mut escaped = false;
    let end = text.find(|c: char| {
        let ends = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let field = match &text[..end] {
        "*" => Field::Any,
        field => Field::Text(unescape(field)),
    };
    Some((field, &text[end + 1..]))
}

fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => result.extend(chars.next()),
            c => result.push(c),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: "::1", port: 5432, dbname: "a:b", user: "me" };

    #[test]
    fn matches_fields_with_stars_and_backslashes() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(password_of_line(line, &WANTED).as_deref(), expected, "{line}");
        };
        check(r"\:\:1:5432:a\:b:me:secret", Some("secret"));
        check(r"*:*:*:*:se\:cr\\et", Some(r"se:cr\et"));
        check("*:*:*:me:with:colon", Some("with:colon"));
        check("*:*:*:*:secret\r", Some("secret"));
        check("*:5433:*:*:secret", None);
        check("*:*:*:you:secret", None);
        check("*:*:*", None);
        check("*:*:*:*:", None);
        check("#*:*:*:*:secret", None);
        check("", None);
    }

    #[test]
    fn uses_the_first_match_of_a_file_that_nobody_else_may_read() {
        let path = std::env::temp_dir().join(format!("trem_passfile_{}", std::process::id()));
        std::fs::write(&path, "other:*:*:*:no\n*:*:*:me:first\n*:*:*:*:second\n").expect("write");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode(0o600)).expect("chmod");
        assert_eq!(password(&path, &WANTED).as_deref(), Some("first"));
        std::fs::set_permissions(&path, mode(0o640)).expect("chmod");
        assert_eq!(password(&path, &WANTED), None);
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(password(&path, &WANTED), None);
    }
}
