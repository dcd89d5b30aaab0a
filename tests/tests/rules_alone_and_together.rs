//! The target is what the same rules give in plain SQL on the source, copied and followed: each
//! kind of rule alone, all together, on several tables.

use trem_tests::Pair;

/// Every column but the key and `tier` may be null.
const PERSON: &str = "CREATE SCHEMA app;
    CREATE TABLE app.person (id int PRIMARY KEY, name text, email varchar(40), born date,
        seen timestamptz, salary numeric(10, 2), height float8, tags text[], info jsonb,
        tier int NOT NULL, secret text);
    INSERT INTO app.person SELECT n, 'Ünal ' || n, 'mail' || n || '@example.org',
        date '1970-01-01' + n, timestamptz '2024-01-01 00:00+00' + n * interval '7 hours',
        n * 10.01, n / 7.0, ARRAY['a', 'b' || n, NULL],
        jsonb_build_object('n', n, 'x', '[1, null]'),
        n % 5, 'secret ' || n
    FROM generate_series(1, 300) n;
    UPDATE app.person SET name = NULL, born = NULL, height = NULL, info = NULL WHERE id % 7 = 0;
    UPDATE app.person SET email = NULL, seen = NULL, salary = NULL, tags = NULL WHERE id % 11 = 0";

/// Statements, each a transaction.
const CHANGES: [&str; 8] = [
    "UPDATE app.person SET name = name || '!', salary = salary + 1 WHERE id % 2 = 0",
    "UPDATE app.person SET tier = tier + 1 WHERE id % 3 = 0",
    "UPDATE app.person SET id = id + 10000 WHERE id % 10 = 1",
    "UPDATE app.person SET id = id + 20000, tier = 4 - tier WHERE id % 10 = 2 AND tier < 5",
    "DELETE FROM app.person WHERE id % 9 = 0",
    "INSERT INTO app.person (id, tier) SELECT n, n % 5 FROM generate_series(5001, 5030) n",
    "BEGIN; INSERT INTO app.person VALUES (6000, 'new', 'n@x', '2024-02-29', 'infinity', 1.005,
     'NaN',
         '{}', '[]', 3, 'x'); UPDATE app.person SET tier = 1 WHERE id = 6000;
     DELETE FROM app.person WHERE id = 5001; INSERT INTO app.person (id, tier) VALUES (5001, 4);
     COMMIT",
    "UPDATE app.person SET email = NULL, salary = NULL WHERE id % 4 = 0;
     UPDATE app.person SET email = 'back', salary = 12.34, name = 'N' WHERE id % 11 = 0",
];

/// Copies and follows `app.person` under rules, given as calls.
#[track_caller]
fn check(rules: &[&str], on_source: &str, on_target: &str) -> Pair {
    check_with("SELECT 1", rules, on_source, on_target)
}

#[track_caller]
fn check_with(prepare: &str, rules: &[&str], on_source: &str, on_target: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(PERSON);
    pair.source.exec(prepare);
    pair.create_task("t", &["app.person"]);
    pair.call(rules);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same(on_source, on_target);
    pair.follow("t", |source| CHANGES.iter().for_each(|change| source.exec(change)));
    pair.assert_same(on_source, on_target);
    assert_eq!(pair.conflicts(), 0, "nothing was put right");
    pair
}

const WHOLE: &str = "SELECT * FROM app.person";
const FULL: &str = "ALTER TABLE app.person REPLICA IDENTITY FULL";

/// `SELECT *` with one column's value replaced.
fn with(column: &str, expression: &str) -> String {
    let columns = ["id", "name", "email", "born", "seen", "salary", "height", "tags", "info"];
    let columns = columns.iter().chain(&["tier", "secret"]);
    let value = |name: &&str| match **name == *column {
        true => expression.to_owned(),
        false => (**name).to_owned(),
    };
    let values: Vec<String> = columns.map(value).collect();
    format!("SELECT {} FROM app.person", values.join(", "))
}

#[test]
fn a_filter_takes_the_rows_for_which_it_is_true() {
    let rule = "set_filter('t', 'app.person', 'tier >= 2 AND salary > 100')";
    check(&[rule], "SELECT * FROM app.person WHERE tier >= 2 AND salary > 100", WHOLE);
}

#[test]
fn a_filter_takes_the_rows_for_which_it_is_true_with_identity_full() {
    let rule = "set_filter('t', 'app.person', 'tier >= 2 AND salary > 100')";
    let on_source = "SELECT * FROM app.person WHERE tier >= 2 AND salary > 100";
    check_with(FULL, &[rule], on_source, WHOLE);
}

#[test]
fn a_filter_may_be_about_the_key_alone() {
    let rule = "set_filter('t', 'app.person', 'id % 2 = 1 AND id < 15000')";
    check(&[rule], "SELECT * FROM app.person WHERE id % 2 = 1 AND id < 15000", WHOLE);
}

#[test]
fn a_column_is_added() {
    let rule = "add_column('t', 'app.person', 'label', 'text',
        $$upper(name) || ' <' || coalesce(email, '?') || '>'$$)";
    let on_source = "SELECT *, upper(name) || ' <' || coalesce(email, '?') || '>' FROM app.person";
    check(&[rule], on_source, WHOLE);
}

#[test]
fn an_added_column_has_the_type_asked_for() {
    let rules = [
        "add_column('t', 'app.person', 'short', 'varchar(3)', 'name || salary')",
        "add_column('t', 'app.person', 'rounded', 'numeric(10,1)', 'salary')",
        "add_column('t', 'app.person', 'day', 'date', 'seen AT TIME ZONE $$America/Sao_Paulo$$')",
        "add_column('t', 'app.person', 'constant', 'int[]', '$${1,2}$$')",
        "add_column('t', 'app.person', 'nothing', 'uuid', 'NULL')",
    ];
    let on_source = "SELECT *, (name || salary)::varchar(3), salary::numeric(10, 1),
        (seen AT TIME ZONE 'America/Sao_Paulo')::date, '{1,2}'::int[], NULL::uuid FROM app.person";
    check(&rules, on_source, WHOLE);
}

#[test]
fn a_type_is_changed_by_a_cast() {
    let rules = [
        "change_type('t', 'app.person', 'salary', 'text')",
        "change_type('t', 'app.person', 'tier', 'bigint')",
        "change_type('t', 'app.person', 'born', 'timestamptz')",
        "change_type('t', 'app.person', 'name', 'varchar(4)')",
        "change_type('t', 'app.person', 'info', 'text')",
        "change_type('t', 'app.person', 'tags', 'varchar[]')",
    ];
    let on_source = "SELECT id, name::varchar(4), email, born::timestamptz, seen, salary::text,
        height, tags::varchar[], info::text, tier::bigint, secret FROM app.person";
    check(&rules, on_source, WHOLE);
}

#[test]
fn a_type_is_changed_by_an_expression() {
    let rules = [
        "change_type('t', 'app.person', 'name', 'int', 'length(name) + tier')",
        "change_type('t', 'app.person', 'seen', 'text', 'to_char(seen,
         $$YYYY-MM-DD HH24:MI TZ$$)')",
    ];
    let on_source = "SELECT id, (length(name) + tier)::int, email, born,
        to_char(seen, 'YYYY-MM-DD HH24:MI TZ'), salary, height, tags, info, tier, secret
        FROM app.person";
    check(&rules, on_source, WHOLE);
}

#[test]
fn a_value_is_set() {
    let rule = "set_value('t', 'app.person', 'email', 'md5(email)')";
    check(&[rule], &with("email", "md5(email)::varchar(40)"), WHOLE);
}

/// As a cast does it, not as an assignment, which would fail.
#[test]
fn a_value_that_is_set_is_cast_to_the_columns_own_type() {
    let rule = "set_value('t', 'app.person', 'email', 'email || email || email')";
    check(&[rule], &with("email", "(email || email || email)::varchar(40)"), WHOLE);
}

#[test]
fn a_value_may_be_taken_away() {
    let rule = "set_value('t', 'app.person', 'secret', 'NULL')";
    check(&[rule], &with("secret", "NULL::text"), WHOLE);
}

#[test]
fn a_value_that_is_set_may_depend_on_other_columns() {
    let rule = "set_value('t', 'app.person', 'secret',
        $$CASE WHEN tier > 2 THEN left(secret, 3) ELSE name || (info->>'n') END$$)";
    let value = "CASE WHEN tier > 2 THEN left(secret, 3) ELSE name || (info->>'n') END";
    check(&[rule], &with("secret", value), WHOLE);
}

#[test]
fn a_value_that_is_set_with_identity_full() {
    let rule = "set_value('t', 'app.person', 'secret', 'name || tier')";
    check_with(FULL, &[rule], &with("secret", "name || tier"), WHOLE);
}

#[test]
fn a_value_and_a_type_work_together() {
    let rules = [
        "set_value('t', 'app.person', 'salary', 'round(salary / 100)')",
        "change_type('t', 'app.person', 'salary', 'int')",
    ];
    check(&rules, &with("salary", "round(salary / 100)::int"), WHOLE);
}

#[test]
fn a_key_may_be_computed_from_the_key() {
    let rules = [
        "set_value('t', 'app.person', 'id', 'id + 1000000')",
        "change_type('t', 'app.person', 'id', 'bigint')",
    ];
    check(&rules, &with("id", "(id + 1000000)::bigint"), WHOLE);
}

#[test]
fn a_key_may_become_a_text() {
    let rules = [
        "set_value('t', 'app.person', 'id', 'lpad(id::text, 9, $$0$$)')",
        "change_type('t', 'app.person', 'id', 'text')",
        "set_filter('t', 'app.person', 'tier > 1')",
    ];
    check(&rules, &(with("id", "lpad(id::text, 9, '0')") + " WHERE tier > 1"), WHOLE);
}

#[test]
fn an_excluded_column_may_be_used_by_expressions() {
    let rules = [
        "exclude_column('t', 'app.person', 'secret')",
        "exclude_column('t', 'app.person', 'tier')",
        "set_filter('t', 'app.person', 'tier > 1')",
        "set_value('t', 'app.person', 'name', 'right(secret, 2)')",
    ];
    let on_source = "SELECT id, right(secret, 2), email, born, seen, salary, height, tags, info
        FROM app.person WHERE tier > 1";
    check(&rules, on_source, WHOLE);
}

/// Every expression sees the row as the source has it, under the source's names.
#[test]
fn rules_never_see_each_others_results() {
    let rules = [
        "rename_column('t', 'app.person', 'name', 'secret')",
        "rename_column('t', 'app.person', 'secret', 'name')",
        "set_value('t', 'app.person', 'name', 'secret')",
        "set_value('t', 'app.person', 'secret', 'name')",
        "add_column('t', 'app.person', 'both', 'text', 'name || secret')",
        "set_filter('t', 'app.person', 'name <> secret')",
    ];
    let on_source = "SELECT id, secret, email, born, seen, salary, height, tags, info, tier, name,
        name || secret FROM app.person WHERE name <> secret";
    let on_target = "SELECT id, secret, email, born, seen, salary, height, tags, info, tier, name,
        \"both\" FROM app.person";
    check(&rules, on_source, on_target);
}

const ALL: [&str; 12] = [
    "rename_schema('t', 'app.*', 'dwh')",
    "rename_table('t', 'app.person', 'Dim Person')",
    "rename_column('t', 'app.person', 'id', 'key')",
    "rename_column('t', 'app.person', 'email', 'mail')",
    "exclude_column('t', 'app.person', 'secret')",
    "set_value('t', 'app.person', 'email', 'md5(email || tier)')",
    "set_value('t', 'app.person', 'id', 'id * 2')",
    "change_type('t', 'app.person', 'id', 'bigint')",
    "change_type('t', 'app.person', 'salary', 'int', 'CASE WHEN tier > 3 THEN salary END')",
    "change_type('t', 'app.person', 'born', 'text')",
    "add_column('t', 'app.person', 'email', 'text', 'split_part(email, $$@$$, 2)')",
    "set_filter('t', 'app.person', 'tier <> 0 AND name IS NOT NULL')",
];

const ALL_ON_SOURCE: &str = "SELECT (id * 2)::bigint, name, md5(email || tier)::varchar(40),
    born::text, seen, (CASE WHEN tier > 3 THEN salary END)::int, height, tags, info, tier,
    split_part(email, '@', 2) FROM app.person WHERE tier <> 0 AND name IS NOT NULL";

const ALL_ON_TARGET: &str = "SELECT key, name, mail, born, seen, salary, height, tags, info, tier,
    email FROM dwh.\"Dim Person\"";

#[test]
fn all_kinds_of_rules_work_together() {
    check(&ALL, ALL_ON_SOURCE, ALL_ON_TARGET);
}

#[test]
fn all_kinds_of_rules_work_together_with_identity_full() {
    check_with(FULL, &ALL, ALL_ON_SOURCE, ALL_ON_TARGET);
}

#[test]
fn all_kinds_of_rules_work_together_on_a_partitioned_table() {
    let prepare = "ALTER TABLE app.person RENAME TO person_old;
        CREATE TABLE app.person (LIKE app.person_old, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE app.low (gone int, secret text, tier int NOT NULL, info jsonb, tags text[],
            height float8, salary numeric(10, 2), seen timestamptz, born date, email varchar(40),
            name text, id int NOT NULL);
        ALTER TABLE app.low DROP COLUMN gone;
        ALTER TABLE app.person ATTACH PARTITION app.low FOR VALUES FROM (MINVALUE) TO (200);
        CREATE TABLE app.high PARTITION OF app.person FOR VALUES FROM (200) TO (MAXVALUE);
        INSERT INTO app.person SELECT * FROM app.person_old; DROP TABLE app.person_old";
    check_with(prepare, &ALL, ALL_ON_SOURCE, ALL_ON_TARGET);
}

#[test]
fn rules_apply_to_a_table_without_key_and_with_identity_full() {
    let prepare = "ALTER TABLE app.person DROP CONSTRAINT person_pkey;
        ALTER TABLE app.person REPLICA IDENTITY FULL; INSERT INTO app.person TABLE app.person";
    let rules = [
        "set_value('t', 'app.person', 'name', 'upper(name)')",
        "exclude_column('t', 'app.person', 'secret')",
        "set_filter('t', 'app.person', 'tier > 1')",
    ];
    let on_source = "SELECT id, upper(name), email, born, seen, salary, height, tags, info, tier
        FROM app.person WHERE tier > 1";
    check_with(prepare, &rules, on_source, WHOLE);
}

#[test]
fn each_table_has_its_own_rules() {
    let mut pair = Pair::new();
    for table in ["one", "two", "three"] {
        pair.source.exec(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, v int, name text);
             INSERT INTO {table} SELECT n, n % 10, 'name ' || n FROM generate_series(1, 200) n"
        ));
    }
    pair.create_task("t", &["public.*"]);
    pair.call(&[
        "set_filter('t', 'public.one', 'v > 5')",
        "set_value('t', 'public.two', 'name', 'md5(name)')",
        "set_filter('t', 'public.three', 'v < 5')",
        "add_column('t', 'public.three', 'w', 'int', 'v * v')",
    ]);
    pair.start_task("t");
    let same = |pair: &mut Pair| {
        pair.assert_same("SELECT * FROM one WHERE v > 5", "SELECT * FROM one");
        pair.assert_same("SELECT id, v, md5(name) FROM two", "SELECT * FROM two");
        pair.assert_same("SELECT *, v * v FROM three WHERE v < 5", "SELECT * FROM three");
    };
    pair.replicate("t");
    same(&mut pair);
    pair.follow("t", |source| {
        source.exec(
            "BEGIN; UPDATE one SET v = 9 - v; UPDATE two SET v = 9 - v; UPDATE three SET v = 9 - v;
             DELETE FROM one WHERE id < 9; DELETE FROM two WHERE id < 9;
             DELETE FROM three WHERE id < 9; INSERT INTO one VALUES (1, 6, 'n');
             INSERT INTO two VALUES (1, 6, 'n'); INSERT INTO three VALUES (1, 4, 'n'); COMMIT;
             UPDATE one SET id = id + 1000 WHERE v = 5; UPDATE two SET id = -id; TRUNCATE three;
             INSERT INTO three VALUES (1, 1, NULL), (2, 8, NULL)",
        );
    });
    same(&mut pair);
}

#[test]
fn the_masking_functions_give_the_same_in_copy_and_stream() {
    let rules = [
        "set_value('t', 'app.person', 'secret', 'trem.pseudonym(secret, $$people$$)')",
        "set_value('t', 'app.person', 'email', 'trem.mask_email(email)')",
        "set_value('t', 'app.person', 'name', 'trem.mask_partial(name, 1, 1)')",
        "add_column('t', 'app.person', 'digits', 'text', 'trem.mask_number(salary::text)')",
    ];
    let on_source = "SELECT id, trem.mask_partial(name, 1, 1), trem.mask_email(email)::varchar(40),
        born, seen, salary, height, tags, info, tier, trem.pseudonym(secret, 'people'),
        trem.mask_number(salary::text) FROM app.person";
    let mut pair = check(&rules, on_source, WHOLE);
    let raw = "SELECT count(*) FROM app.person WHERE secret LIKE 'secret%'";
    assert_eq!(pair.target.number(raw), 0);
}

#[test]
fn an_added_column_may_tell_of_the_change() {
    let mut pair = Pair::new();
    pair.source
        .exec("CREATE TABLE item (id int PRIMARY KEY, v int); INSERT INTO item VALUES (1, 1)");
    pair.create_task("t", &["public.item"]);
    pair.call(&[
        "add_column('t', 'public.item', 'operation', 'text', 'trem.operation()')",
        "add_column('t', 'public.item', 'lsn', 'pg_lsn', 'trem.commit_lsn()')",
        "add_column('t', 'public.item', 'at', 'timestamptz', 'trem.commit_timestamp()')",
    ]);
    pair.start_task("t");
    pair.replicate("t");
    let loaded = "SELECT operation, lsn, at FROM item";
    assert_eq!(pair.target.rows(loaded), [[Some("load".to_owned()), None, None]]);
    let before = pair.source.text("SELECT pg_current_wal_lsn()");
    pair.follow("t", |source| {
        source.exec("INSERT INTO item VALUES (2, 2)");
        source.exec("INSERT INTO item VALUES (3, 3); INSERT INTO item VALUES (4, 3)");
        source.exec("UPDATE item SET v = 9 WHERE id IN (1, 3)");
    });
    let operations = "SELECT string_agg(id || operation, ' ' ORDER BY id) FROM item";
    assert_eq!(pair.target.text(operations), "1update 2insert 3update 4insert");
    let told = format!(
        "SELECT bool_and(lsn > '{before}' AND at BETWEEN now() - interval '1 hour' AND now())
             AND count(DISTINCT lsn) = 3 AND count(DISTINCT at) = 3
             AND bool_and(lsn > (SELECT lsn FROM item WHERE id = 2) OR id = 2) FROM item"
    );
    assert!(pair.target.holds(&told));
}

#[test]
fn a_preview_shows_what_will_arrive() {
    let mut pair = Pair::new();
    pair.source.exec(PERSON);
    pair.create_task("t", &["app.person"]);
    pair.call(&ALL);
    let preview = "SELECT p FROM trem.preview('t', 'app.person', 1000) p ORDER BY (p->>'key')::int";
    let previewed = pair.source.rows(preview);
    pair.start_task("t");
    pair.replicate("t");
    pair.target.exec("SET TimeZone = 'UTC'");
    let arrived =
        pair.target.rows(&format!("SELECT to_jsonb(q) FROM ({ALL_ON_TARGET}) q ORDER BY key"));
    assert_eq!(previewed, arrived);
    assert!(!arrived.is_empty());
}
