//! The harness itself: clusters that are each test's own, and that leave nothing behind.

use trem_tests::{difference, Cluster, Content};

#[test]
fn a_cluster_survives_a_crash_and_is_gone_when_dropped() {
    let cluster = Cluster::alone(&[]);
    let mut session = cluster.connect("postgres");
    session.exec("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)");
    cluster.crash();
    cluster.start();
    let mut session = cluster.connect("postgres");
    assert_eq!(session.number("SELECT count(*) FROM kept"), 1);
    assert_eq!(session.text("SHOW wal_level"), "logical");
    let folder = cluster.folder().to_owned();
    drop(cluster);
    assert!(!folder.exists());
}

#[test]
fn a_failed_statement_shows_sqlstate_and_message() {
    let cluster = Cluster::alone(&[]);
    let failure = cluster.connect("postgres").failure("SELECT 1/0");
    assert_eq!(failure.sqlstate, "22012");
    failure.assert_says(&["division by zero"]);
}

#[test]
fn one_bit_of_difference_is_found() {
    let cluster = Cluster::alone(&[]);
    let (mut one, mut other) = (cluster.connect("postgres"), cluster.connect("template1"));
    let query = "SELECT * FROM item";
    for session in [&mut one, &mut other] {
        session
            .exec("CREATE TABLE item (id int, v float8); INSERT INTO item VALUES (1, 0), (2, 1)");
    }
    let same = difference((&mut one, query), (&mut other, query), Content::Binary);
    assert_eq!(same, None);
    other.exec("UPDATE item SET v = '-0' WHERE id = 1");
    let found = difference((&mut one, query), (&mut other, query), Content::Binary);
    assert!(found.is_some_and(|found| found.contains("1\t-0")));
}
