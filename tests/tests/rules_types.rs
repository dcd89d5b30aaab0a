//! Expressions over columns of every common type give in the stream what they give in the copy.

use trem_tests::{Content, Pair};

/// A type and some of its values, as SQL expressions.
const TYPES: &[(&str, &[&str])] = &[
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["'NaN'", "'-0'", "1.17549435e-38", "0.1"]),
    ("double precision", &["'-Infinity'", "5e-324", "0.1", "123456789.123456789"]),
    ("numeric", &["'NaN'", "'Infinity'", "-1e-100", "1234567890.0987654321", "0.000"]),
    ("numeric(10,2)", &["-99999999.99", "1.50"]),
    ("money", &["'-1234567.89'", "'0.01'"]),
    ("boolean", &["true", "false"]),
    ("text", &["''", "E'tab\\tnew\\nline\\\\N'", "'Ordem de Serviço 漢字 🐘'"]),
    ("varchar(10)", &["'ten chars '"]),
    ("character(5)", &["'ab'", "''"]),
    ("bytea", &["'\\x00ff5c27'", "''"]),
    ("uuid", &["'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("json", &["'{\"a\": 1,   \"a\": null}'"]),
    ("jsonb", &["'{\"b\": 1e3, \"a\": [null, true, \"é\"]}'", "'null'"]),
    ("date", &["'infinity'", "'4713-01-01 BC'", "'2024-02-29'"]),
    ("time", &["'24:00'", "'23:59:59.999999'"]),
    ("timetz", &["'12:00:00.000001+05:30'"]),
    ("timestamp", &["'-infinity'", "'2024-02-29 12:34:56.789'"]),
    ("timestamptz", &["'infinity'", "'2024-10-27 02:30:00.123+01'", "'0044-03-15 BC'"]),
    ("interval", &["'1 mon -1 day +00:00:00.000001'", "'-178000000 years'"]),
    ("inet", &["'192.168.1.5/24'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("bit(5)", &["B'10101'"]),
    ("bit varying(70)", &["B''", "B'1010101'"]),
    ("integer[]", &["'{}'", "'[-1:1]={1,2,NULL}'"]),
    ("text[]", &["'{\"\",NULL,\"a,b\",\"\\\"q\\\"\"}'"]),
    ("timestamptz[]", &["'{infinity,2024-01-01 00:00+00}'"]),
    ("numeric[]", &["'{NaN,1.10}'"]),
    ("int4range", &["'empty'", "'[1,5)'"]),
    ("tstzrange", &["'[2024-01-01 00:00+00,infinity]'"]),
    ("nummultirange", &["'{[1,2),[3,4)}'"]),
    ("point", &["'(NaN,1e-300)'"]),
    ("pg_lsn", &["'FFFFFFFF/FFFFFFFF'"]),
    ("public.mood", &["'sad'", "'é happy'"]),
    ("public.positive", &["7"]),
];

const TYPES_MADE: &str = "CREATE TYPE mood AS ENUM ('sad', 'é happy');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0)";

/// One column for each type, `c0` and on; a row for each value, the other columns null.
fn create(pair: &mut Pair) {
    pair.source.exec(TYPES_MADE);
    let columns: Vec<String> =
        TYPES.iter().enumerate().map(|(n, (name, _))| format!("c{n} {name}")).collect();
    pair.source.exec(&format!("CREATE TABLE item (id int PRIMARY KEY, {})", columns.join(", ")));
    insert(pair, 0);
}

fn insert(pair: &mut Pair, from: usize) {
    let mut id = from;
    for (n, (name, values)) in TYPES.iter().enumerate() {
        for value in *values {
            pair.source
                .exec(&format!("INSERT INTO item (id, c{n}) VALUES ({id}, ({value})::{name})"));
            id += 1;
        }
    }
}

/// Copies and follows under a rule for each column, made of its number.
fn check(rule: impl Fn(usize) -> String, on_source: &str) {
    let mut pair = Pair::new();
    create(&mut pair);
    pair.create_task("t", &["public.item"]);
    for n in 0..TYPES.len() {
        pair.call(&[&rule(n)]);
    }
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_as(on_source, "SELECT * FROM item", Content::Text);
    let mut applier = pair.applier("t");
    insert(&mut pair, 1000);
    pair.source.exec("UPDATE item SET id = id + 5000 WHERE id % 3 = 0");
    pair.source.exec("DELETE FROM item WHERE id BETWEEN 1 AND 30");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_as(on_source, "SELECT * FROM item", Content::Text);
}

/// A select list of one expression for each column.
fn select(expression: impl Fn(usize) -> String) -> String {
    (0..TYPES.len()).map(expression).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_value_of_any_type_may_be_computed() {
    let value = |n: usize| format!("CASE WHEN id % 5 <> 0 THEN c{n} END");
    let cast = |n: usize| format!("({})::{}", value(n), TYPES[n].0);
    check(
        |n| format!("set_value('t', 'public.item', 'c{n}', '{}')", value(n)),
        &format!("SELECT id, {} FROM item", select(cast)),
    );
}

#[test]
fn a_value_of_any_type_may_become_a_text() {
    check(
        |n| format!("change_type('t', 'public.item', 'c{n}', 'text')"),
        &format!("SELECT id, {} FROM item", select(|n| format!("c{n}::text"))),
    );
}

#[test]
fn columns_of_any_type_may_be_added() {
    check(
        |n| format!("add_column('t', 'public.item', 'd{n}', $${}$$, 'c{n}')", TYPES[n].0),
        &format!("SELECT *, {} FROM item", select(|n| format!("c{n}"))),
    );
}

#[test]
fn values_of_any_type_may_be_put_together() {
    let joined = select(|n| format!("c{n}"));
    let mut pair = Pair::new();
    create(&mut pair);
    pair.create_task("t", &["public.item"]);
    pair.call(&[
        &format!(
            "add_column('t', 'public.item', 'line', 'text', 'concat_ws($$|$$, id, {joined})')"
        ),
        &format!("add_column('t', 'public.item', 'doc', 'jsonb', 'jsonb_build_array({joined})')"),
        &format!("set_filter('t', 'public.item', 'num_nonnulls({joined}) > 0')"),
    ]);
    pair.start_task("t");
    pair.replicate("t");
    let on_source = format!(
        "SELECT *, concat_ws('|', id, {joined}), jsonb_build_array({joined}) FROM item
         WHERE num_nonnulls({joined}) > 0"
    );
    pair.assert_same_as(&on_source, "SELECT * FROM item", Content::Text);
    let mut applier = pair.applier("t");
    insert(&mut pair, 1000);
    pair.source.exec("INSERT INTO item VALUES (9999)");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_as(&on_source, "SELECT * FROM item", Content::Text);
}
