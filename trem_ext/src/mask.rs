//! Masks for values: what the SQL functions `trem.pseudonym`, `trem.mask_partial`,
//! `trem.mask_email` and `trem.mask_number` do. The same value always gets the same mask, so that
//! the copy and the stream agree.
//!
//! # Keys
//! A pseudonym is a keyed hash: equal values stay equal, so joins still work, and without the key
//! nobody can try values out. Nor can anybody ask for the pseudonym of a value of their own: there
//! are pseudonyms only while TREM evaluates a rule over a row (and for superusers, who can read the
//! keys). Keys are rows of `trem.mask_key`, which only the owner of the extension can read. A
//! stream loads the keys that its rules name when it starts, because nothing can be read while
//! decoding; an SQL session reads a key once in a transaction, as the owner.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{spi, PgSqlErrorCode, Spi};
use sha2::Sha256;

use crate::pg;

/// A hash that has taken in its key.
type Keyed = Hmac<Sha256>;

/// Of 64 hexadecimal digits; 128 bits are enough to tell values apart.
const PSEUDONYM_DIGITS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub(crate) enum MaskError {
    #[error("there is no key \"{0}\" for trem.pseudonym")]
    KeyMissing(String),
    #[error("trem.pseudonym is for the expressions of rules")]
    NotInRule,
    #[error("a number of characters to keep is negative")]
    Negative,
    #[error("the keys of trem.pseudonym cannot be read: {0}")]
    Unreadable(#[from] spi::Error),
}

impl From<MaskError> for ErrorReport {
    fn from(error: MaskError) -> Self {
        let code = match error {
            MaskError::KeyMissing(_) => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            MaskError::NotInRule => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            MaskError::Negative => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            MaskError::Unreadable(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        };
        let report = ErrorReport::new(code, error.to_string(), "trem");
        match error {
            MaskError::KeyMissing(_) => {
                report.set_hint("SELECT trem.make_mask_key('<its name>'); makes it.")
            }
            MaskError::NotInRule => report.set_hint(
                "Whoever could ask for pseudonyms could try values out. SELECT \
                 trem.preview('<task>', '<schema.table>'); shows what a rule makes of rows.",
            ),
            MaskError::Negative | MaskError::Unreadable(_) => report,
        }
    }
}

#[derive(Default)]
struct Keys {
    stream: HashMap<String, Keyed>,
    /// Of the transaction with this stamp.
    session: HashMap<String, Keyed>,
    stamp: i64,
}

fn keys() -> MutexGuard<'static, Option<Keys>> {
    static KEYS: Mutex<Option<Keys>> = Mutex::new(None);
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has these keys ready for the stream that is about to start.
pub(crate) fn load_stream_keys(names: &BTreeSet<String>) -> Result<(), MaskError> {
    let mut stream = HashMap::new();
    for name in names {
        stream.insert(name.clone(), read_key(name)?);
    }
    keys().get_or_insert_default().stream = stream;
    Ok(())
}

fn read_key(name: &str) -> Result<Keyed, MaskError> {
    const KEY: &str = "SELECT key FROM trem.mask_key WHERE name = $1";
    let key = pg::as_extension_owner(|| {
        Spi::connect(|client| {
            let found = client.select(KEY, Some(1), &[DatumWithOid::from(name)])?;
            match found.is_empty() {
                true => Ok(None),
                false => found.first().get_one::<Vec<u8>>(),
            }
        })
    })?;
    let key = key.ok_or_else(|| MaskError::KeyMissing(name.to_owned()))?;
    Ok(Keyed::new_from_slice(&key).expect("a key may have any length"))
}

fn keyed(name: &str) -> Result<Keyed, MaskError> {
    let missing = || MaskError::KeyMissing(name.to_owned());
    if pg::change_at_hand().is_some() {
        let keys = keys();
        let stream = keys.as_ref().map(|keys| &keys.stream);
        return stream.and_then(|keys| keys.get(name)).cloned().ok_or_else(missing);
    }
    let stamp = pg::transaction_stamp();
    {
        let mut keys = keys();
        let keys = keys.get_or_insert_default();
        if keys.stamp != stamp {
            keys.session.clear();
            keys.stamp = stamp;
        }
        if let Some(key) = keys.session.get(name) {
            return Ok(key.clone());
        }
    }
    // The lock is not held while the server works, which may raise an error.
    let key = read_key(name)?;
    keys().get_or_insert_default().session.insert(name.to_owned(), key.clone());
    Ok(key)
}

pub(crate) fn pseudonym(value: &str, key_name: &str) -> Result<String, MaskError> {
    let asked_by_trem = pg::change_at_hand().is_some() || pg::Evaluation::is_under_way();
    if !asked_by_trem && !pg::is_superuser(pg::caller()) {
        return Err(MaskError::NotInRule);
    }
    Ok(hex(keyed(key_name)?, value))
}

fn hex(mut keyed: Keyed, value: &str) -> String {
    keyed.update(value.as_bytes());
    let hash = keyed.finalize().into_bytes();
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.take(PSEUDONYM_DIGITS).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Stars instead of all characters but the first and last ones. A value so short that nothing
/// would be hidden is all stars.
pub(crate) fn partial(value: &str, keep_start: i32, keep_end: i32) -> Result<String, MaskError> {
    let start = usize::try_from(keep_start).map_err(|_| MaskError::Negative)?;
    let end = usize::try_from(keep_end).map_err(|_| MaskError::Negative)?;
    let length = value.chars().count();
    let shown = start.saturating_add(end);
    let hidden = |at: usize| shown >= length || (at >= start && at < length - end);
    Ok(value.chars().enumerate().map(|(at, c)| if hidden(at) { '*' } else { c }).collect())
}

/// The first character of the local part, three stars, and the domain: `j***@example.com`. What is
/// no address is three stars.
pub(crate) fn email(value: &str) -> String {
    match value.rsplit_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        _ => "***".to_owned(),
    }
}

/// Every digit becomes 9: signs, separators and length stay, so `+41 79 123` is `+99 99 999`.
pub(crate) fn number(value: &str) -> String {
    value.chars().map(|c| if c.is_numeric() { '9' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_a_keyed_hash() {
        let keyed = || Keyed::new_from_slice(b"key").expect("any length");
        let fox = "The quick brown fox jumps over the lazy dog";
        assert_eq!(hex(keyed(), fox), "f7bc83f430538424b13298e6aa6fb143");
        assert_ne!(hex(keyed(), "a"), hex(keyed(), "b"));
    }

    #[test]
    fn a_partial_mask_hides_something_always() {
        let check = |value, start, end, expect: &str| {
            assert_eq!(partial(value, start, end).expect("valid"), expect);
        };
        check("4111111111111234", 0, 4, "************1234");
        check("secret", 1, 1, "s****t");
        check("ab", 1, 1, "**");
        check("Zürich", 2, 0, "Zü****");
        check("", 1, 1, "");
        check("abc", i32::MAX, i32::MAX, "***");
        assert!(partial("abc", -1, 0).is_err());
    }

    #[test]
    fn masks_keep_the_shape() {
        assert_eq!(email("john.doe@example.com"), "j***@example.com");
        assert_eq!(email("nobody"), "***");
        assert_eq!(email("@example.com"), "***");
        assert_eq!(email("\"a@b\"@c"), "\"***@c");
        assert_eq!(number("+41 79 123-45.6"), "+99 99 999-99.9");
    }
}
