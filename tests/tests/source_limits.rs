//! What keeps the source's server from harm: reading ahead can be turned off, memory that runs out
//! is an error, and a database in another encoding is refused in words.

use trem_tests::{wait_for, Pair};

const DEBUG: &[(&str, &str)] = &[("log_min_messages", "debug1")];
const READS_AHEAD: &str = "trem reads records of the WAL ahead";
const READS_NONE_AHEAD: &str = "trem reads no records of the WAL ahead: trem.read_ahead is off";

fn started(settings: &[(&str, &str)]) -> Pair {
    let mut pair = Pair::with_settings(settings, &[]);
    pair.source.exec("CREATE TABLE item (id int PRIMARY KEY, v text)");
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    pair.replicate("t");
    pair
}

/// Small transactions, one that is rolled back in part, and a large one.
fn write(pair: &mut Pair) {
    for n in 1..200 {
        pair.source.exec(&format!("INSERT INTO item VALUES ({n}, 'small')"));
    }
    pair.source.exec(
        "BEGIN; UPDATE item SET v = 'kept' WHERE id < 50; SAVEPOINT s; DELETE FROM item;
         ROLLBACK TO s; COMMIT",
    );
    pair.source
        .exec("INSERT INTO item SELECT n, repeat('large', 20) FROM generate_series(1000, 20000) n");
}

#[test]
fn reading_ahead_is_on_by_itself() {
    let mut pair = started(DEBUG);
    write(&mut pair);
    pair.replicate("t");
    pair.assert_same_table("item");
    let log = pair.source_cluster.log();
    assert!(log.contains(READS_AHEAD) && !log.contains(READS_NONE_AHEAD));
}

#[test]
fn reading_ahead_is_off_for_a_role_that_has_it_off() {
    let mut pair = started(DEBUG);
    let before = pair.source_cluster.log().matches(READS_AHEAD).count();
    pair.source.exec("ALTER ROLE trem_applier SET trem.read_ahead = off");
    write(&mut pair);
    pair.replicate("t");
    pair.assert_same_table("item");
    let log = pair.source_cluster.log();
    assert_eq!(log.matches(READS_AHEAD).count(), before);
    assert!(log.contains(READS_NONE_AHEAD));
}

/// The process that serves the stream.
fn walsender(pair: &mut Pair) -> i64 {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL";
    let source = &mut pair.source;
    wait_for("a walsender", || source.value(sql).is_some());
    source.number(sql)
}

/// No more address space for a process of the server than it has, and some bytes. Its own user may
/// say that, and the server runs programs as that.
fn limit(pair: &mut Pair, pid: i64, more: u64) {
    let size =
        std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("the size of a process");
    let pages: u64 = size.split(' ').next().and_then(|pages| pages.parse().ok()).expect("pages");
    let limit = pages * 4096 + more;
    pair.source.exec(&format!("COPY (SELECT) TO PROGRAM 'prlimit --pid {pid} --as={limit}:'"));
}

const TABLES: u32 = 30;

/// Rust ends a process that finds no memory, and the server then ends all its sessions. Many tables
/// are met for the first time, which takes many small pieces; and rows take large ones.
#[test]
fn a_walsender_without_memory_ends_with_an_error_and_nobody_else() {
    for more in [0, 64 * 1024, 1024 * 1024, 5 * 1024 * 1024] {
        let mut pair = Pair::new();
        for n in 0..TABLES {
            pair.source
                .exec(&format!("CREATE TABLE item{n} (id int PRIMARY KEY, v text, e int[])"));
        }
        pair.create_task("t", &["public.*"]);
        for n in 0..TABLES {
            pair.call(&[&format!("set_value('t', 'public.item{n}', 'v', 'upper(v)')")]);
        }
        pair.start_task("t");
        pair.replicate("t");
        pair.expect_log("");
        let mut applier = pair.applier("t");
        let pid = walsender(&mut pair);
        let started = pair.source.text("SELECT pg_postmaster_start_time()");
        pair.source.exec("CREATE TEMPORARY TABLE witness ()");
        limit(&mut pair, pid, more);
        let inserts: Vec<_> = (0..TABLES)
            .map(|n| {
                format!(
                    "INSERT INTO item{n} SELECT g, repeat(g::text, {size}), ARRAY[g]
                     FROM generate_series(1, 20) g",
                    size = if n % 10 == 0 { 300_000 } else { 3_000 }
                )
            })
            .collect();
        pair.source.exec(&inserts.join("; "));
        // Whether it was enough or not: it goes on by itself, with another process.
        pair.catch_up("t", &mut applier);
        applier.terminate();
        for n in 0..TABLES {
            let on_source = format!("SELECT id, upper(v), e FROM item{n}");
            pair.assert_same(&on_source, &format!("SELECT * FROM item{n}"));
        }
        assert_eq!(pair.source.text("SELECT pg_postmaster_start_time()"), started);
        let log = pair.source_cluster.log();
        assert!(
            !log.contains("terminated by signal") && !log.contains("memory allocation of"),
            "{log}"
        );
        if more < 1024 * 1024 {
            assert!(log.contains("out of memory"), "{more} bytes more are not enough");
        }
        // The session of this test was there all the time.
        pair.source.exec("DROP TABLE witness");
    }
}

/// In a database of another encoding the texts of Rust came out, and their bytes.
#[test]
fn a_database_in_another_encoding_is_refused_in_words() {
    let pair = Pair::new();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = encoding.to_lowercase();
        pair.source_cluster.connect("postgres").exec(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0
                 LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        let mut source = pair.source_cluster.connect(&name);
        source.exec(
            "CREATE EXTENSION trem;
             CREATE TABLE item (id int PRIMARY KEY, v text);
             CREATE TABLE \"größe\" (id int PRIMARY KEY, \"länge\" text);
             INSERT INTO \"größe\" VALUES (1, 'süß')",
        );
        source.exec(&format!(
            "SELECT trem.create_endpoint('src', 'source', dbname => '{name}',
                 username => 'trem_applier');
             SELECT trem.create_endpoint('dst', 'target', dbname => 'x', host => 'localhost');
             SELECT trem.create_task('t', 'src', 'dst', '{{public.*}}')"
        ));
        let found = source.rows(
            "SELECT severity, message, hint FROM trem.check_task('t')
            WHERE check_name = 'encoding'",
        );
        let expected = format!("the database is encoded in {encoding}, and TREM reads UTF8 only");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0][0].as_deref(), Some("error"));
        assert_eq!(found[0][1].as_ref(), Some(&expected));
        assert!(found[0][2].as_ref().is_some_and(|hint| hint.contains("ENCODING 'UTF8'")));
        source.failure("SELECT trem.start_task('t')").assert_says(&[&expected]);
        // Whether it finds the table or not: it says so, and no more.
        let create = "SELECT trem.create_task('u', 'src', 'dst', '{public.größe}')";
        let made = source.try_exec(create);
        if let Err(failure) = made {
            failure.assert_says(&["does not exist"]);
        }
        let replication =
            format!("{} replication=database", pair.source_cluster.conninfo(&name, "postgres"));
        let (done, said) = pair
            .source_cluster
            .psql(&replication, &["CREATE_REPLICATION_SLOT s LOGICAL trem (SNAPSHOT 'nothing')"]);
        assert!(!done && said.contains(&expected), "{said}");
    }
}
