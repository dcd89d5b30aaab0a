//! Values so large that PostgreSQL keeps them out of line.

/// An SQL expression: about 100 kB of text that does not compress, different for each value of the
/// SQL expression `seed`.
#[must_use]
pub fn noise(seed: &str) -> String {
    format!(
        "(SELECT string_agg(md5(({seed})::text || g::text), '') FROM generate_series(1, 3200) g)"
    )
}
