//! How `trem.computed` knows that a view of TREM's calls it, with values of the view's table.
//!
//! Whoever reads a view needs the right to call the functions in it, and might call
//! `trem.computed` with values of their own: of a mask, that would be all it takes to try values
//! out. So each of its calls in a view hands over a token: a random number that the view reads from
//! `trem.view_token`. A view reads with the rights of its owner, who may see that table; its reader
//! may not, and sees the token nowhere. A token stands for one expression over one table's columns,
//! so it is of no use for another one.
//!
//! `trem.preview` makes the same calls in a statement of its own, of `trem.previewed`. Its token is
//! made for that statement and forgotten after it: so that function may be anybody's.

use std::sync::{Mutex, PoisonError};

use pgrx::datum::DatumWithOid;
use pgrx::{spi, Spi, Uuid};
use sha2::{Digest, Sha256};

use super::{as_extension_owner, random_bytes};

/// What a token stands for: the arguments by which a value is computed, but for the values.
pub(crate) struct Call<'a> {
    pub rule_id: i64,
    pub relation: u32,
    pub output: u32,
    pub attnums: &'a [i16],
    /// Of the table, and of the columns.
    pub names: &'a [&'a str],
    pub expression: &'a str,
}

impl Call<'_> {
    /// Its key in `trem.view_token`.
    pub(crate) fn id(&self) -> String {
        let mut digest = Sha256::new();
        let numbers = [self.rule_id, self.relation.into(), self.output.into()];
        let attnums = self.attnums.iter().map(|attnum| i64::from(*attnum));
        for number in numbers.into_iter().chain([self.attnums.len() as i64]).chain(attnums) {
            digest.update(number.to_be_bytes());
        }
        for text in self.names.iter().chain([&self.expression]) {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the token is the call's, as the snapshot of the statement has it.
    pub(crate) fn is_made_by_view(&self, token: &Uuid) -> Result<bool, spi::Error> {
        const TOKEN: &str = "SELECT token FROM trem.view_token WHERE id = $1";
        let id = self.id();
        let stored = as_extension_owner(|| {
            Spi::connect(|client| {
                let found = client.select(TOKEN, Some(1), &[DatumWithOid::from(id.as_str())])?;
                match found.is_empty() {
                    true => Ok(None),
                    false => found.first().get_one::<Uuid>(),
                }
            })
        })?;
        Ok(stored.is_some_and(|stored| same(stored.as_bytes(), token.as_bytes())))
    }
}

/// Takes the same time wherever they differ.
fn same(one: &[u8; 16], other: &[u8; 16]) -> bool {
    one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

static PREVIEW: Mutex<Option<[u8; 16]>> = Mutex::new(None);

/// Whether the token is that of the statement of `trem.preview` that is under way.
pub(crate) fn is_made_by_preview(token: &Uuid) -> bool {
    let preview = *PREVIEW.lock().unwrap_or_else(PoisonError::into_inner);
    preview.is_some_and(|preview| same(&preview, token.as_bytes()))
}

/// The token of one statement; it holds as long as this lives.
pub(crate) struct OneTime(Uuid);

impl OneTime {
    /// `None`: there is no randomness to be had.
    pub(crate) fn new() -> Option<OneTime> {
        let bytes = random_bytes()?;
        *PREVIEW.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Some(OneTime(Uuid::from_bytes(bytes)))
    }

    /// As an expression of SQL.
    pub(crate) fn sql(&self) -> String {
        format!("'{}'::pg_catalog.uuid", self.0)
    }
}

impl Drop for OneTime {
    fn drop(&mut self) {
        *PREVIEW.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_all_of_a_call() {
        let call = |attnums, names, expression| {
            Call { rule_id: 1, relation: 2, output: 25, attnums, names, expression }.id()
        };
        let one = call(&[1], &["t", "a"], "upper(a)");
        assert_eq!(one, call(&[1], &["t", "a"], "upper(a)"));
        assert_ne!(one, call(&[2], &["t", "a"], "upper(a)"));
        assert_ne!(one, call(&[1], &["t", "b"], "upper(a)"));
        assert_ne!(one, call(&[1], &["t", "a"], "lower(a)"));
        assert_ne!(one, call(&[1], &["t"], "aupper(a)"));
    }

    #[test]
    fn tokens_are_compared_as_a_whole() {
        let mut other = [7; 16];
        assert!(same(&[7; 16], &other));
        other[15] = 8;
        assert!(!same(&[7; 16], &other));
    }
}
