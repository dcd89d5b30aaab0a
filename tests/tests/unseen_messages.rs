//! Messages in the WAL: a stream heeds those that TREM wrote and no others. And what the event
//! triggers note: of everybody's commands, whatever the session is like, and of none that was
//! rolled back.

use trem_tests::Pair;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, v text);
    INSERT INTO item SELECT n, 'v' || n FROM generate_series(1, 9) n";

fn loaded() -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(ITEM);
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// Any role may write messages with any prefix. A forged publish stopped a stream, again and again,
/// and a forged barrier ended `--until-caught-up` too early.
#[test]
fn messages_that_somebody_else_wrote_do_nothing() {
    let mut pair = loaded();
    let task_id = pair.source.text("SELECT task_id FROM trem.task");
    let oid = pair.source.text("SELECT 'item'::regclass::oid");
    pair.source.exec("CREATE ROLE stranger LOGIN");
    let forged = [
        format!("published:{task_id}:99"),
        format!("changed:dropped:{oid}:{oid}"),
        format!("changed:rewritten:{oid}:{oid}"),
        "schema_renamed:public".to_owned(),
        "barrier:t:mine".to_owned(),
        "barrier:mine".to_owned(),
    ];
    let mut applier = pair.applier("t");
    pair.catch_up("t", &mut applier);
    for user in ["postgres", "stranger", "trem_applier"] {
        let mut session = pair.source_cluster.connect_as("shop", user);
        for text in &forged {
            for code in ["''::bytea", "sha256('guess')", "decode(repeat('00', 32), 'hex')"] {
                session.exec(&format!(
                    "SELECT pg_logical_emit_message(true, 'trem', {code} || '{text}'::bytea),
                            pg_logical_emit_message(false, 'trem', {code} || '{text}'::bytea)"
                ));
            }
        }
    }
    pair.source.exec("INSERT INTO item VALUES (100, 'after the forgeries')");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("item");
    assert!(!applier.log().contains("anew"), "the stream was opened again:\n{}", applier.log());
}

/// Nobody but the extension's owner sees the secret, and barriers are for who serves the task.
#[test]
fn the_secret_is_kept_and_barriers_are_for_appliers() {
    let mut pair = loaded();
    pair.source.exec(
        "CREATE ROLE stranger LOGIN; CREATE ROLE operator LOGIN;
         SELECT trem.grant_operator('operator'); GRANT USAGE ON SCHEMA trem TO stranger",
    );
    for user in ["stranger", "operator", "trem_applier"] {
        let mut session = pair.source_cluster.connect_as("shop", user);
        session.failure("SELECT * FROM trem.message_key").assert_says(&["permission denied"]);
        session.failure("UPDATE trem.message_key SET key = ''").assert_says(&["permission denied"]);
    }
    let barrier = "SELECT trem.applier_barrier('t', 'token')";
    let mut stranger = pair.source_cluster.connect_as("shop", "stranger");
    stranger.failure(barrier).assert_says(&["permission denied"]);
    pair.as_applier().exec(barrier);
    let long = "x".repeat(65);
    for token in ["", "a b", "a:b", "ä", long.as_str()] {
        pair.as_applier()
            .failure(&format!("SELECT trem.applier_barrier('t', '{token}')"))
            .assert_says(&["token"]);
    }
}

/// 480 MB of a message took the applier to 1.2 GB. Now not a byte of it crosses.
#[test]
fn a_large_message_of_somebody_else_stays_where_it_is() {
    let mut pair = loaded();
    let recorder = pair.record();
    pair.source.exec(
        "SELECT pg_logical_emit_message(true, 'trem', 'barrier:' || repeat('forged ', 9000000))",
    );
    pair.source.exec("INSERT INTO item VALUES (100, 'after it')");
    pair.replicate("t");
    pair.assert_same_table("item");
    assert_eq!(recorder.count(b"forged"), 0);
    assert!(recorder.total() < 1 << 20, "{} bytes crossed", recorder.total());
}

#[test]
fn what_was_rolled_back_is_not_noted() {
    let mut pair = loaded();
    let mut applier = pair.applier("t");
    let rewrite = "ALTER TABLE item ALTER v TYPE text USING v || '!'";
    for undone in [
        format!("BEGIN; {rewrite}; ROLLBACK"),
        format!(
            "BEGIN; SAVEPOINT s; {rewrite}; ROLLBACK TO s; INSERT INTO item VALUES (50); COMMIT"
        ),
        "BEGIN; DROP TABLE item; ROLLBACK".to_owned(),
        "BEGIN; ALTER TABLE item RENAME TO thing; ROLLBACK".to_owned(),
        // Others' tables are nobody's affair.
        "CREATE TABLE mine (id int PRIMARY KEY); ALTER TABLE mine ALTER id TYPE bigint;
         CREATE TEMP TABLE item2 (id int); ALTER TABLE item2 ALTER id TYPE bigint;
         ALTER TABLE mine RENAME TO mine2; DROP TABLE mine2; DROP TABLE item2"
            .to_owned(),
    ] {
        pair.source.exec(&undone);
    }
    let failed = "ALTER TABLE item ALTER v TYPE int USING v::int";
    pair.source.failure(failed);
    pair.source.exec("INSERT INTO item VALUES (60, 'after')");
    pair.catch_up("t", &mut applier);
    applier.terminate();
    pair.assert_same_table("item");
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.check_task('t')"), 0);
}

/// An owner without any right on TREM changes her table, in a session made to be difficult.
#[test]
fn everybody_s_commands_are_noted_whatever_the_session_is_like() {
    let change = "ALTER TABLE public.item ALTER v TYPE text USING v || '!'";
    let inside = format!(
        "CREATE FUNCTION public.change() RETURNS void LANGUAGE plpgsql SET search_path = ''
         AS $$ BEGIN EXECUTE '{}'; END $$; SELECT public.change()",
        change.replace('\'', "''")
    );
    for (way, before, command) in [
        ("plainly", "", change),
        ("without a search path", "SET search_path = ''", change),
        ("in one moment", "SET default_transaction_isolation = 'serializable'", change),
        ("with operators of her own", SHADOWS, change),
        ("in a function", "", inside.as_str()),
        ("with a timeout of locks", "SET lock_timeout = '1ms'", change),
    ] {
        let mut pair = loaded();
        pair.source.exec("CREATE ROLE owner LOGIN; ALTER TABLE item OWNER TO owner");
        pair.source.exec("GRANT CREATE ON SCHEMA public TO owner");
        // A publish that is not over does not keep her waiting for TREM's tables.
        let mut publisher = pair.source_cluster.connect("shop");
        publisher.exec("BEGIN; SELECT * FROM trem.table_change, trem.message_key FOR UPDATE");
        let mut owner = pair.source_cluster.connect_as("shop", "owner");
        owner.exec(before);
        owner.exec(command);
        publisher.exec("COMMIT");
        let refused = pair.refuse("t", &["public.item", "rewritten", "trem.reload_table"]);
        assert_eq!(refused.code, Some(1), "{way}");
    }
}

/// The event triggers go with the extension, in the midst of the command that they would note.
#[test]
fn the_extension_is_dropped_and_made_again() {
    let mut pair = loaded();
    // It is guarded as long as there are slots of its tasks.
    pair.source.exec("SELECT trem.stop_task('t')");
    pair.source.exec("SELECT pg_drop_replication_slot('trem_t')");
    for drop in ["DROP EXTENSION trem CASCADE", "DROP SCHEMA trem CASCADE"] {
        pair.source.exec(&format!("BEGIN; DROP TABLE item; {drop}; ROLLBACK"));
        pair.source.exec(drop);
        pair.source.exec("ALTER TABLE item ALTER v TYPE text USING v; DROP TABLE IF EXISTS gone");
        pair.source.exec("DROP SCHEMA IF EXISTS trem_read CASCADE; CREATE EXTENSION trem");
        pair.source.exec("CREATE TABLE gone (id int)");
    }
    pair.source.exec("DROP TABLE gone, item");
    assert_eq!(pair.source.number("SELECT count(*) FROM trem.table_change"), 2);
}

const SHADOWS: &str = "CREATE FUNCTION public.never(oid, oid) RETURNS boolean LANGUAGE sql
        AS 'SELECT false';
    CREATE OPERATOR public.= (FUNCTION = public.never, LEFTARG = oid, RIGHTARG = oid);
    CREATE FUNCTION public.pg_event_trigger_table_rewrite_oid() RETURNS oid LANGUAGE sql
        AS 'SELECT 0::oid';
    SET search_path = public, pg_catalog";
