//! Who writes data must not be able to stop a task for good: whatever a row makes of an expression,
//! or of the function that writes its type, is that row's failure, and `on_error` decides.

use trem_tests::Pair;

const SKIP: &str = r#"{"on_error": "skip_row"}"#;

/// Bytes that are no text, as damage may leave them. A superuser can make such a value.
const DAMAGED: &str = "'\\x61ff'::bytea::text";
const DAMAGE: &str = "CREATE CAST (bytea AS text) WITHOUT FUNCTION";

/// A column computed by an expression, a value for which it fails, and how.
struct Case {
    rule: &'static str,
    result: &'static str,
    value: &'static str,
    sqlstate: &'static str,
}

const fn case(
    rule: &'static str,
    result: &'static str,
    value: &'static str,
    sqlstate: &'static str,
) -> Case {
    Case { rule, result, value, sqlstate }
}

const CASES: [Case; 10] = [
    // The depth of the stack: a limit, but one that the same row meets again.
    case("v::jsonb", "jsonb", "repeat('[', 100000)", "54001"),
    case("v::json", "json", "repeat('[', 100000)", "54001"),
    case("v::tsquery", "tsquery", "repeat('!', 100000) || 'a'", "XX000"),
    // What the server calls an internal error.
    case("xpath(v, x)::text", "text", "'///'", "XX000"),
    case("repeat(v, 200000000)", "text", "repeat('x', 10)", "54000"),
    // The processor refuses it, with a signal that would end a walsender and so the server.
    case("(v::money / (-1)::bigint)::text", "text", "'-92233720368547758.08'", "22P01"),
    case("trem.mask_email(v)", "text", DAMAGED, "22021"),
    case("trem.mask_number(v)", "text", DAMAGED, "22021"),
    case("trem.mask_partial(v, 1, 1)", "text", DAMAGED, "22021"),
    case("trem.pseudonym(v, 'k')", "text", DAMAGED, "22021"),
];

fn drafted(create: &str, options: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(create);
    pair.create_task_with("t", &["public.item"], "full_load_and_cdc", options);
    pair
}

/// All cases over one table, each for rows of its own: `id % 100` says which.
fn with_all_cases(options: &str) -> Pair {
    let create = format!(
        "{DAMAGE}; CREATE TABLE item (id int PRIMARY KEY, v text, x xml);
         INSERT INTO item VALUES (1, '1', '<a/>')"
    );
    let mut pair = drafted(&create, options);
    for (case, at) in CASES.iter().zip(10..) {
        let expression = format!("CASE WHEN id % 100 = {at} THEN {} END", case.rule);
        pair.call(&[&format!(
            "add_column('t', 'public.item', 'c{at}', '{}', $e${expression}$e$)",
            case.result
        )]);
    }
    // What is damaged would not be taken by the target.
    pair.call(&["exclude_column('t', 'public.item', 'v')"]);
    pair
}

/// A row for each case.
fn insert_all(pair: &mut Pair, hundreds: u32) {
    for (case, at) in CASES.iter().zip(10..) {
        let id = hundreds * 100 + at;
        pair.source.exec(&format!("INSERT INTO item VALUES ({id}, {}, '<a/>')", case.value));
    }
}

fn exceptions(pair: &mut Pair) -> Vec<Vec<Option<String>>> {
    pair.source.rows("SELECT key, sqlstate FROM trem.exception ORDER BY key COLLATE \"C\"")
}

fn expected(hundreds: u32) -> Vec<Vec<Option<String>>> {
    let row = |(case, at): (&Case, u32)| {
        vec![Some(format!("({})", hundreds * 100 + at)), Some(case.sqlstate.to_owned())]
    };
    CASES.iter().zip(10..).map(row).collect()
}

/// Each of these ended the stream at the same row again and again, whatever the task said.
#[test]
fn rows_that_no_expression_can_take_are_skipped_in_the_copy_and_in_the_stream() {
    let mut pair = with_all_cases(SKIP);
    insert_all(&mut pair, 1);
    pair.start_task("t");
    pair.replicate("t");
    assert_eq!(exceptions(&mut pair), expected(1));
    pair.follow("t", |source| {
        for (case, at) in CASES.iter().zip(10..) {
            let value = case.value;
            source.exec(&format!(
                "INSERT INTO item VALUES (2{at}, {value}, '<a/>'), (3{at}, '1', '<a/>')"
            ));
            source.exec(&format!("UPDATE item SET v = '2' WHERE id = 1{at}"));
        }
    });
    assert_eq!(exceptions(&mut pair), [expected(1), expected(2)].concat());
    let ids = "SELECT id FROM item WHERE id NOT BETWEEN 200 AND 299 AND v <> '///'";
    pair.assert_same(ids, "SELECT id FROM item");
}

#[test]
fn a_row_that_an_expression_cannot_take_stops_a_task_that_does_not_skip() {
    let mut pair = with_all_cases("{}");
    pair.start_task("t");
    pair.replicate("t");
    let deep = "INSERT INTO item VALUES (110, repeat('[', 100000), '<a/>')";
    pair.source.exec(&format!("INSERT INTO item VALUES (2, '2', '<a/>'); {deep}"));
    pair.refuse("t", &["54001", "item", "(key: id)", "skip_row"]);
    pair.call(&[&format!("alter_task('t', '{SKIP}')"), "start_task('t')"]);
    pair.replicate("t");
    assert_eq!(pair.target.number("SELECT count(*) FROM item"), 2);
}

/// The label of a value is gone. It can be compared no more, nor written.
#[test]
fn values_of_an_enum_without_their_label_are_skipped() {
    let rule = "add_column('t', 'public.item', 'good', 'boolean', '$$sad$$ < mood')";
    for (rules, column) in [
        (&[rule, "exclude_column('t', 'public.item', 'mood')"][..], "mood > 'sad'"),
        (&[][..], "mood::text"),
    ] {
        let create = "CREATE TYPE mood AS ENUM ('sad', 'ok');
            CREATE TABLE item (id int PRIMARY KEY, mood mood, n int)";
        let mut pair = drafted(create, SKIP);
        // A label that is put between others is compared with the help of the catalog.
        pair.source.exec("ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok'");
        pair.source.exec("INSERT INTO item VALUES (1, 'ok', 1), (2, 'happy', 2)");
        pair.call(rules);
        pair.start_task("t");
        pair.source.exec("DELETE FROM pg_enum WHERE enumlabel = 'happy'");
        pair.replicate("t");
        let found = |pair: &mut Pair| {
            let exceptions = "SELECT concat_ws(' ', operation, key, sqlstate)
                FROM trem.exception ORDER BY key, operation";
            pair.source.rows(exceptions).into_iter().map(|row| row[0].clone()).collect::<Vec<_>>()
        };
        let line = |line: &str| Some(format!("{line} 22P03"));
        assert_eq!(found(&mut pair), [line("insert (2)")]);
        pair.follow("t", |source| {
            source.exec("UPDATE item SET n = 3 WHERE id IN (1, 2)");
            source.exec("INSERT INTO item SELECT 3, mood, 4 FROM item WHERE id = 2");
            source.exec("INSERT INTO item VALUES (4, 'sad', 4)");
            source.exec(
                "UPDATE item SET id = 5, mood = (SELECT mood FROM item WHERE id = 3)
                         WHERE id = 4",
            );
        });
        let expected = ["insert (2)", "update (2)", "insert (3)", "update (5)"];
        assert_eq!(found(&mut pair), expected.map(line));
        pair.assert_same_as(
            &format!("SELECT id, n, {column} AS c FROM item WHERE id = 1"),
            "SELECT id, n, to_jsonb(item) - 'id' - 'n' FROM item"
                .replace(
                    "to_jsonb(item) - 'id' - 'n'",
                    if rules.is_empty() { "mood" } else { "good" },
                )
                .as_str(),
            trem_tests::Content::Text,
        );
        // Once it is mended by hand, all is as before.
        pair.follow("t", |source| source.exec("UPDATE item SET mood = 'ok'"));
        pair.assert_same_as(
            &format!("SELECT id, n, {column} AS c FROM item"),
            if rules.is_empty() {
                "SELECT id, n, mood FROM item"
            } else {
                "SELECT id, n, good FROM item"
            },
            trem_tests::Content::Text,
        );
    }
}

/// ANALYZE made the load fail: the server cannot convert a bound that no float can hold.
#[test]
fn a_table_that_cannot_be_analyzed_is_loaded() {
    let create = "CREATE TABLE item (id int PRIMARY KEY, r numrange);
        INSERT INTO item SELECT n, numrange(n, 10::numeric ^ 400) FROM generate_series(1, 100) n";
    let mut pair = drafted(create, "{}");
    pair.start_task("t");
    let outcome = pair.run_until_caught_up("t");
    outcome.assert_code(0).assert_says(&["cannot be analyzed"]);
    pair.assert_same_table("item");
}
