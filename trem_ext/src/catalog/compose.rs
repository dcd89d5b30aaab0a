//! One column's value and type, and one table's filter, from the rules about it.
//!
//! A value is the expression of a rule, or the source column, cast to the type that a rule gives,
//! or to the source column's own. What comes out is complete SQL over the source table's row, for
//! the view and for the plugin alike.

use trem_wire::definition::DefinedExpression;

use super::draft::Rule;
use super::name;
use super::shape::{Computed, Filter, Output, ShapedColumn};
use super::table::Column;

/// int2, int4, int8, numeric: each holds every value of those before it.
const WIDENING: [u32; 4] = [21, 23, 20, 1700];
const TEXT: u32 = 25;
/// Types that have one text for each value: text, varchar, int2, int4, int8, uuid, bool, date.
const DISTINCT_AS_TEXT: [u32; 8] = [25, 1043, 21, 23, 20, 2950, 16, 1082];

/// What a column of the source becomes.
pub(crate) fn column(
    source: &Column,
    key: bool,
    new_type: Option<&Rule>,
    value: Option<&Rule>,
) -> (Output, Option<Computed>) {
    // A type that is gone is reported elsewhere; until it is back the column keeps its own.
    let new_type = new_type.filter(|rule| rule.type_oid.is_some());
    let mut output = new_type.and_then(output_of).unwrap_or_else(|| Output {
        type_oid: source.type_oid,
        type_modifier: source.type_modifier,
        type_name: source.type_name.clone(),
        collation: None,
        collation_is_users: false,
        not_null: false,
        identity: false,
    });
    if output.type_oid == source.type_oid {
        output.collation.clone_from(&source.collation);
        output.collation_is_users = source.collation_is_users;
    }
    let Some(rule) = value.or(new_type) else {
        return (Output { not_null: source.not_null, identity: source.identity, ..output }, None);
    };
    let written = rule.expression();
    let computed = Computed {
        expression: DefinedExpression {
            rule_id: rule.id,
            sql: match written {
                Some(written) => cast(&enclosed(written), &output.type_name),
                None => cast(&name::quoted(&source.name), &output.type_name),
            },
        },
        written: written.map(str::to_owned),
        keeps_values: written.is_none() && keeps_values(source, &output),
        guard: None,
    };
    // A null in a key never reaches the target: its row is reported instead.
    output.not_null = source.not_null && (key || computed.keeps_values);
    (output, Some(computed))
}

/// A column that only the target has; `None` if its type is gone.
pub(crate) fn created(rule: &Rule) -> Option<ShapedColumn> {
    let output = output_of(rule)?;
    let written = rule.expression()?;
    Some(ShapedColumn {
        source: None,
        name: rule.column_name.clone()?,
        key: false,
        computed: Some(Computed {
            expression: DefinedExpression {
                rule_id: rule.id,
                sql: cast(&enclosed(written), &output.type_name),
            },
            written: Some(written.to_owned()),
            keeps_values: false,
            guard: None,
        }),
        output,
    })
}

pub(crate) fn filter(rule: &Rule) -> Option<Filter> {
    let written = rule.expression()?;
    let expression = DefinedExpression { rule_id: rule.id, sql: enclosed(written) };
    Some(Filter { expression, written: written.to_owned(), guard: None })
}

fn output_of(rule: &Rule) -> Option<Output> {
    Some(Output {
        type_oid: rule.type_oid?,
        type_modifier: rule.type_modifier(),
        type_name: rule.type_name()?.to_owned(),
        collation: None,
        collation_is_users: false,
        not_null: false,
        identity: false,
    })
}

fn cast(value: &str, type_name: &str) -> String {
    format!("CAST({value} AS {type_name})")
}

/// An expression in parentheses. One that ends in a comment must not swallow the second.
fn enclosed(expression: &str) -> String {
    let end = if expression.contains("--") { "\n" } else { "" };
    format!("({expression}{end})")
}

/// Whether the cast alone neither merges two values nor makes one null.
fn keeps_values(source: &Column, output: &Output) -> bool {
    let rank = |oid| WIDENING.iter().position(|of| *of == oid);
    if output.type_modifier != -1 {
        return false;
    }
    let widens = rank(source.type_oid).zip(rank(output.type_oid)).is_some_and(|(a, b)| a <= b);
    widens || output.type_oid == TEXT && DISTINCT_AS_TEXT.contains(&source.type_oid)
}

#[cfg(test)]
mod tests {
    use super::enclosed;

    #[test]
    fn a_comment_does_not_swallow_the_parenthesis() {
        assert_eq!(enclosed("a + 1"), "(a + 1)");
        assert_eq!(enclosed("a -- note"), "(a -- note\n)");
    }
}
