//! Plain columns for a person to read.

/// Prints a head and lines, each column as wide as its widest cell.
pub(super) fn print(head: &[&str], lines: &[Vec<String>]) {
    let width = |at: usize| {
        let cells = lines.iter().map(|line| line[at].chars().count());
        cells.chain([head[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let print_line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> =
            cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    };
    print_line(&mut head.iter().copied());
    for line in lines {
        print_line(&mut line.iter().map(String::as_str));
    }
}
