//! Whoever reads a task's views sees pseudonyms, and cannot ask for those of values of their own: a
//! million guesses a second would find every value that can be guessed.

use trem_tests::{Database, Pair};

/// A table with a masked column, one with a masked key and a filter, and whoever reads the views.
struct Masked {
    pair: Pair,
    applier: Database,
    views: Vec<String>,
    tokens: Vec<String>,
}

impl Masked {
    fn new() -> Self {
        let mut pair = Pair::new();
        pair.source.exec(
            "CREATE ROLE ada LOGIN; CREATE SCHEMA app AUTHORIZATION ada; SET ROLE ada;
             CREATE TABLE app.person (id int PRIMARY KEY, mail text);
             INSERT INTO app.person SELECT n, 'mail' || n || '@example.com'
                 FROM generate_series(1, 5000) n;
             CREATE TABLE app.login (mail text PRIMARY KEY, n int);
             INSERT INTO app.login SELECT 'mail' || n || '@example.com', n
                 FROM generate_series(1, 5000) n;
             ANALYZE app.person, app.login; RESET ROLE",
        );
        pair.create_task("t", &["app.person", "app.login"]);
        pair.call(&[
            "set_value('t', 'app.person', 'mail', 'pseudonym(mail, ''k'')')",
            "set_value('t', 'app.login', 'mail', 'trem.pseudonym(mail, ''k'')')",
            "set_filter('t', 'app.login', 'length(mail) > 3')",
        ]);
        pair.start_task("t");
        let list = |pair: &mut Pair, sql: &str| -> Vec<String> {
            pair.source.rows(sql).into_iter().map(|row| row[0].clone().expect("no null")).collect()
        };
        let views = list(
            &mut pair,
            "SELECT format('trem_read.%I', leaf->>'view') FROM trem.definition,
             jsonb_path_query(content, '$.tables[*].leaves[*]') leaf ORDER BY leaf->>'name'",
        );
        let tokens = list(&mut pair, "SELECT token FROM trem.view_token");
        assert_eq!((views.len(), tokens.len()), (2, 3));
        let applier = pair.as_applier();
        Masked { pair, applier, views, tokens }
    }

    fn person(&self) -> &str {
        &self.views[1]
    }
}

#[test]
fn the_views_show_pseudonyms_to_their_reader() {
    let mut masked = Masked::new();
    let person = masked.person().to_owned();
    let shown = masked.applier.text(&format!("SELECT mail FROM {person} WHERE id = 7"));
    let made = masked.pair.source.text("SELECT trem.pseudonym('mail7@example.com', 'k')");
    assert_eq!(shown, made);
    masked.pair.replicate("t");
    masked.pair.follow("t", |source| {
        source.exec("INSERT INTO app.person VALUES (0, 'new@example.com')");
        source.exec("UPDATE app.login SET n = n + 1");
    });
    masked.pair.assert_same(
        "SELECT id, trem.pseudonym(mail, 'k') FROM app.person",
        "SELECT * FROM app.person",
    );
    masked.pair.assert_same(
        "SELECT trem.pseudonym(mail, 'k'), n FROM app.login",
        "SELECT * FROM app.login",
    );
}

/// The applier's role called `trem.pseudonym` itself.
#[test]
fn a_reader_cannot_ask_for_a_pseudonym() {
    let mut masked = Masked::new();
    let oid = masked.pair.source.number("SELECT 'app.person'::regclass::oid::bigint");
    let call = |token: &str| {
        format!(
            "SELECT trem.computed({token}, NULL::text, 1, {oid}::regclass, 'text'::regtype, '{{2}}',
                 '{{person,mail}}', 'CAST((pseudonym(mail, ''k'')) AS text)', 'guess'::text)"
        )
    };
    let view = masked.person().to_owned();
    for attempt in [
        "SELECT trem.pseudonym('guess', 'k')".to_owned(),
        "SELECT trem.pseudonym(value => 'guess', key_name => 'k')".to_owned(),
        format!("SELECT trem.pseudonym('guess', 'k') FROM {view}"),
        "PREPARE p AS SELECT trem.pseudonym($1, 'k'); EXECUTE p('guess')".to_owned(),
        call("NULL"),
        call("gen_random_uuid()"),
        call("(SELECT token FROM trem.view_token LIMIT 1)"),
        call("NULL").replace("computed", "previewed"),
        call("gen_random_uuid()").replace("computed", "previewed"),
        "SELECT trem.preview('t', 'app.person')".to_owned(),
        format!("INSERT INTO {view} (id, mail) VALUES (0, 'guess')"),
        "TABLE trem.view_token".to_owned(),
        "SELECT key FROM trem.mask_key".to_owned(),
        "CREATE TEMPORARY TABLE mine AS TABLE trem.view_token".to_owned(),
    ] {
        let failure = masked.applier.failure(&attempt);
        let refused = ["42501", "55000", "0A000"].contains(&failure.sqlstate.as_str());
        assert!(refused, "{attempt}: {failure}");
    }
    // Not even while a view is read in the same statement, nor between the rows of a cursor.
    masked.applier.exec(&format!("BEGIN; DECLARE c CURSOR FOR SELECT mail FROM {view}; FETCH c"));
    let failure = masked.applier.failure("SELECT trem.pseudonym('guess', 'k')");
    assert_eq!(failure.sqlstate, "42501");
    masked.applier.exec("ROLLBACK");
    let mixed = format!("SELECT mail, trem.pseudonym('guess', 'k') FROM {view}");
    assert_eq!(masked.applier.failure(&mixed).sqlstate, "42501");
    // What a rule's author might have smuggled in as a type's check is no rule.
    masked.pair.source.exec(
        "CREATE FUNCTION app.ask(text) RETURNS bool LANGUAGE plpgsql AS $$
         BEGIN RETURN trem.pseudonym($1, 'k') IS NOT NULL; END $$;
         CREATE DOMAIN app.asking AS text CHECK (app.ask(VALUE));
         CREATE TYPE app.asks AS (f app.asking);
         CREATE TABLE app.asked (id int PRIMARY KEY, v app.asks);
         ALTER TABLE app.asked OWNER TO ada; ALTER FUNCTION app.ask OWNER TO ada;
         SELECT trem.add_table('t', 'app.asked')",
    );
    let rule = "SELECT trem.set_filter('t', 'app.asked', $$ v IS DISTINCT FROM '(1)'::app.asks $$)";
    masked
        .pair
        .source
        .failure(rule)
        .assert_says(&["trem.pseudonym is for the expressions of rules"]);
}

/// The token that a view shows to `trem.computed` is nowhere to be seen for its reader.
#[test]
fn a_reader_does_not_find_the_token_of_a_view() {
    let mut masked = Masked::new();
    let (view, source) = (masked.person().to_owned(), masked.pair.source_conninfo());
    let commands = [
        format!("EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) SELECT * FROM {view} WHERE id < 5"),
        format!("EXPLAIN (VERBOSE) SELECT mail FROM {view}"),
        format!("SELECT pg_get_viewdef('{view}'::regclass, true)"),
        "SELECT ev_action FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE c.relnamespace = 'trem_read'::regnamespace"
            .to_owned(),
        "SELECT * FROM pg_stats WHERE tablename = 'view_token'".to_owned(),
        "SELECT * FROM pg_stat_activity".to_owned(),
        format!(
            "CREATE FUNCTION pg_temp.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0001
                 AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$;
             SELECT * FROM {view} v WHERE pg_temp.leak(v::text) AND pg_temp.leak(mail) LIMIT 3"
        ),
        format!(
            "SET client_min_messages = debug5; SET debug_print_plan = on;
             SET debug_print_parse = on; SET debug_print_rewritten = on;
             SELECT mail FROM {view} WHERE id = 1"
        ),
        format!("SELECT mail::int FROM {view}"),
    ];
    masked.pair.source.exec("ANALYZE trem.view_token");
    for command in commands {
        let (_, printed) = masked.pair.source_cluster.psql(&source, &[&command]);
        for token in &masked.tokens {
            assert!(!printed.contains(token.as_str()), "{command}");
        }
    }
}

/// What a load of a part and a re-read by key rest on: a sub-select for the token is no obstacle.
#[test]
fn parts_and_keys_of_a_view_are_found_without_reading_all_of_it() {
    let mut masked = Masked::new();
    let [login, person] = [0, 1].map(|at| masked.views[at].clone());
    let mut plan = |sql: &str| -> String {
        let rows = masked.applier.rows(&format!("EXPLAIN (COSTS OFF) {sql}"));
        rows.into_iter().map(|row| row[0].clone().unwrap_or_default() + "\n").collect()
    };
    let part =
        plan(&format!("SELECT * FROM {person} WHERE trem_ctid >= '(0,1)' AND trem_ctid < '(5,1)'"));
    assert!(part.contains("Tid Range Scan"), "{part}");
    let part =
        plan(&format!("SELECT * FROM {login} WHERE trem_ctid >= '(0,1)' AND trem_ctid < '(5,1)'"));
    assert!(part.contains("Tid Range Scan"), "{part}");
    let key = plan(&format!("SELECT mail FROM {person} WHERE id = 7"));
    assert!(key.contains("Index Scan using person_pkey"), "{key}");
}

/// What the owner of a table may see of tokens is of no use to her, and goes with the last view of
/// her tables.
#[test]
fn owners_of_tables_see_tokens_as_long_as_there_are_views_of_theirs() {
    let mut masked = Masked::new();
    let may = "SELECT has_table_privilege('ada', 'trem.view_token', 'SELECT')";
    assert!(masked.pair.source.holds(may));
    let mut ada = masked.pair.source_cluster.connect_as("shop", "ada");
    // She may not call what they are for.
    let person = masked.person().to_owned();
    assert_eq!(ada.failure(&format!("SELECT mail FROM {person}")).sqlstate, "42501");
    masked.pair.source.exec("SELECT trem.stop_task('t'), trem.drop_task('t')");
    assert!(!masked.pair.source.holds(may));
    assert_eq!(masked.pair.source.number("SELECT count(*) FROM trem.view_token"), 0);
    masked.pair.source.exec("DROP SCHEMA app CASCADE; DROP ROLE ada");
}
