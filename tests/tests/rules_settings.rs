//! Whatever server, databases and roles set, copy and stream evaluate the same way.

use trem_tests::Pair;

/// Settings that change how values are read or written, three times different.
const SETTINGS: [(&str, [&str; 3]); 9] = [
    ("TimeZone", ["America/Sao_Paulo", "Asia/Kolkata", "Pacific/Chatham"]),
    ("DateStyle", ["German", "SQL, DMY", "Postgres, YMD"]),
    ("IntervalStyle", ["sql_standard", "iso_8601", "postgres_verbose"]),
    ("extra_float_digits", ["-15", "0", "-3"]),
    ("bytea_output", ["escape", "hex", "escape"]),
    ("array_nulls", ["off", "on", "off"]),
    ("transform_null_equals", ["on", "off", "on"]),
    ("xmloption", ["document", "content", "document"]),
    ("search_path", ["app, public, pg_catalog", "public", "app"]),
];

/// Database, applier's role and superuser on the source; database, role and superuser on the
/// target.
fn pair_with_odd_settings() -> Pair {
    let mut pair = Pair::new();
    for (name, [one, two, three]) in SETTINGS {
        pair.source.exec(&format!(
            "ALTER DATABASE shop SET {name} TO {one}; ALTER ROLE trem_applier SET {name} TO {two};
             ALTER ROLE postgres SET {name} TO {three}",
            one = list(one),
            two = list(two),
            three = list(three),
        ));
        pair.target.exec(&format!(
            "ALTER DATABASE warehouse SET {name} TO {two}; ALTER ROLE loader SET {name} TO {three}",
            two = list(two),
            three = list(three),
        ));
    }
    pair.reconnect();
    pair
}

/// A list of names, each quoted.
fn list(value: &str) -> String {
    let quoted: Vec<String> = value.split(", ").map(|name| format!("'{name}'")).collect();
    quoted.join(", ")
}

/// What depends on such a setting: an expression, and the type of its column.
const EXPRESSIONS: &[(&str, &str)] = &[
    ("seen::text", "text"),
    ("seen::date", "date"),
    ("at::timestamptz", "timestamptz"),
    ("day::timestamptz", "timestamptz"),
    ("day::text", "text"),
    ("at::text", "text"),
    ("span::text", "text"),
    ("height::text", "text"),
    ("width || 'x'", "text"),
    ("raw::text", "text"),
    ("cost::text", "text"),
    ("typed::date", "date"),
    ("typed::timestamptz", "timestamptz"),
    ("(typed || ' 00:30')::timestamp", "timestamp"),
    ("date_trunc('day', seen)", "timestamptz"),
    ("extract(hour FROM seen)", "numeric"),
    ("to_char(seen, 'YYYY-MM-DD HH24 TZ Day')", "text"),
    ("to_timestamp(to_char(at, 'YYYYMMDD'), 'YYYYMMDD')", "timestamptz"),
    ("seen + span", "timestamptz"),
    ("seen < day", "boolean"),
    ("'2024-03-10 12:00'::timestamptz - seen", "interval"),
    ("age(at, '2000-01-01')", "interval"),
    ("concat(seen, '|', day, '|', span, '|', height, '|', raw, '|', list)", "text"),
    ("format('%s %L', seen, at)", "text"),
    ("jsonb_build_object('seen', seen, 'span', span, 'height', height)", "jsonb"),
    ("array_to_string(list, ',', 'none')", "text"),
    ("'{a,NULL}'::text[] || list::text[]", "text[]"),
    ("list::text", "text"),
    ("name = NULL", "boolean"),
    ("pg_catalog.upper(name)", "text"),
    ("lower(name)", "text"),
];

const ITEM: &str = "CREATE SCHEMA app; SET search_path = public;
    CREATE TABLE public.item (id int PRIMARY KEY, name text, seen timestamptz, at timestamp,
    day date,
        span interval, height float8, width real, raw bytea, cost money, typed text,
        list timestamptz[]);
    CREATE FUNCTION app.upper(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'the wrong one';
    CREATE FUNCTION public.upper(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'the wrong one'";

/// Text is written under fixed settings, so that only its reading is left to go wrong.
fn insert(pair: &mut Pair, from: usize) {
    pair.source.exec(&format!(
        "BEGIN; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY';
         INSERT INTO item SELECT n, 'Name ' || n,
         timestamptz '2024-01-01 00:00+00' + n * interval '37 hours',
             timestamp '2024-03-01' + n * interval '13 hours', date '2024-01-31' + n,
             n * interval '1 month -2 days 03:04:05.6', n / 3.0, n / 7.0, decode(lpad(to_hex(n),
             8, '0'), 'hex'),
             n * 1.01, '0' || 1 + n % 9 || '/0' || 1 + n % 7 || '/2024',
             ARRAY[timestamptz '2024-06-01 00:00+00' + n * interval '1 day', NULL]
         FROM generate_series({from} + 1, {from} + 60) n;
         INSERT INTO item (id) VALUES ({from} + 99); COMMIT"
    ));
}

#[test]
fn copy_and_stream_agree_whatever_the_settings() {
    let mut pair = pair_with_odd_settings();
    pair.source.exec(ITEM);
    insert(&mut pair, 0);
    pair.create_task("t", &["public.item"]);
    for (n, (expression, type_name)) in EXPRESSIONS.iter().enumerate() {
        pair.call(&[&format!(
            "add_column('t', 'public.item', 'c{n}', '{type_name}', $e${expression}$e$)"
        )]);
    }
    let filter = "seen >= '2024-01-10' AND day < '2024-12-01'";
    pair.call(&[
        &format!("set_filter('t', 'public.item', $e${filter} OR id > 5000$e$)"),
        "change_type('t', 'public.item', 'cost', 'text')",
    ]);
    pair.start_task("t");
    pair.replicate("t");
    // How the harness reads the same expressions.
    pair.source.exec(
        "SET transform_null_equals = off; SET array_nulls = on; SET xmloption = 'content';
         SET search_path = pg_catalog, public",
    );
    pair.target.exec("SET search_path = pg_catalog, public");
    check_contents(&mut pair, filter);
    let mut applier = pair.applier("t");
    insert(&mut pair, 100);
    insert(&mut pair, 6000);
    pair.source
        .exec("UPDATE item SET id = id + 200, seen = seen + interval '5 days' WHERE id < 50");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    check_contents(&mut pair, filter);
}

/// Expression by expression, so that a failure names the one.
#[track_caller]
fn check_contents(pair: &mut Pair, filter: &str) {
    let condition = format!("WHERE {filter} OR id > 5000");
    let on_source = format!(
        "SELECT id, name, seen, at, day, span, height, width, raw, cost::text, typed, list
         FROM public.item {condition}"
    );
    let on_target = "SELECT id, name, seen, at, day, span, height, width, raw, cost, typed, list
        FROM public.item";
    pair.assert_same(&on_source, on_target);
    for (n, (expression, type_name)) in EXPRESSIONS.iter().enumerate() {
        pair.assert_same(
            &format!("SELECT id, ({expression})::{type_name} FROM public.item {condition}"),
            &format!("SELECT id, c{n} FROM public.item"),
        );
    }
}
