//! Whole contents, compared.

use crate::Database;

/// How the two sides are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Bit by bit, as `COPY … (FORMAT binary)` has it.
    Binary,
    /// As text: for types whose binary form holds OIDs, which differ between databases.
    Text,
}

/// The settings that TREM evaluates expressions with, so that a query of a test gives the same;
/// text shows every bit of a float.
const PINNED: &str = "SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY';
    SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; SET lc_monetary = 'C'";

/// Every row of a query, in an order that depends on the rows alone.
pub fn table_content(database: &mut Database, query: &str, content: Content) -> Vec<u8> {
    let format = match content {
        Content::Binary => "binary",
        Content::Text => "text",
    };
    database.exec(PINNED);
    database.copy_out(&format!(
        "COPY (SELECT q.* FROM ({query}) AS q ORDER BY q::text COLLATE \"C\") \
         TO STDOUT (FORMAT {format})"
    ))
}

/// What differs between two queries, row by row; `None` when the contents are the same.
pub fn difference(
    source: (&mut Database, &str),
    target: (&mut Database, &str),
    content: Content,
) -> Option<String> {
    let (source, source_query) = source;
    let (target, target_query) = target;
    if table_content(source, source_query, content) == table_content(target, target_query, content)
    {
        return None;
    }
    let lines = |database: &mut Database, query: &str| -> Vec<String> {
        let text = table_content(database, query, Content::Text);
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    };
    let on_source = lines(source, source_query);
    let on_target = lines(target, target_query);
    Some(describe(&on_source, &on_target))
}

/// Both lists are sorted, so one pass finds what only one of them has.
fn describe(on_source: &[String], on_target: &[String]) -> String {
    let mut report = format!("source has {} rows, target {}\n", on_source.len(), on_target.len());
    let (mut only_source, mut only_target) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (on_source.iter().peekable(), on_target.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(l), Some(r)) if l == r => {
                left.next();
                right.next();
            }
            (Some(l), Some(r)) if l < r => only_source.extend(left.next()),
            (Some(_), None) => only_source.extend(left.next()),
            (_, Some(_)) => only_target.extend(right.next()),
        }
    }
    if only_source.is_empty() && only_target.is_empty() {
        return report + "the same as text: the difference is in the binary form only\n";
    }
    for (side, rows) in [("source", only_source), ("target", only_target)] {
        report += &format!("{} rows only on the {side}\n", rows.len());
        for row in rows.iter().take(5) {
            report += &format!("  {}\n", row.chars().take(300).collect::<String>());
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::describe;

    fn rows(rows: &[&str]) -> Vec<String> {
        rows.iter().map(|&row| row.to_owned()).collect()
    }

    #[test]
    fn a_difference_names_the_rows_of_either_side() {
        let report = describe(&rows(&["a", "b", "d"]), &rows(&["b", "c", "d"]));
        assert_eq!(
            report,
            "source has 3 rows, target 3\n\
             1 rows only on the source\n  a\n\
             1 rows only on the target\n  c\n"
        );
    }

    #[test]
    fn rows_equal_as_text_differ_in_binary_form_only() {
        assert!(describe(&rows(&["a"]), &rows(&["a"])).contains("binary form only"));
    }
}
