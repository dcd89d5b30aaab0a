//! What a monitoring system reads from the applier.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use trem_tests::{wait_for, Pair};

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address")
}

/// The answer's status line and body. `None` while nobody listens.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect(address).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: trem\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn metrics_and_health_are_served() {
    let mut pair = Pair::new();
    pair.source.exec(
        "CREATE TABLE item (id int PRIMARY KEY, v text);
         INSERT INTO item SELECT g, 'v' FROM generate_series(1, 500) g",
    );
    pair.create_task("t", &["public.item"]);
    pair.start_task("t");
    let address = free_address();
    let listen = address.to_string();
    let mut applier = pair.applier_with(&["run", "--task", "t", "--listen", &listen], &[]);
    pair.source
        .exec("INSERT INTO item VALUES (1001, 'a'), (1002, 'b'); DELETE FROM item WHERE id = 7");
    pair.catch_up("t", &mut applier);
    let lines = [
        r#"trem_task_phase{task="t",phase="cdc"} 1"#,
        r#"trem_task_phase{task="t",phase="failed"} 0"#,
        r#"trem_rows_loaded_total{task="t",table="public.item"} "#,
        r#"trem_changes_total{task="t",table="public.item",operation="delete"} "#,
        r#"trem_conflicts_total{task="t",table="public.item"} 0"#,
        r#"trem_applied_lsn{task="t"} "#,
    ];
    wait_for("the metrics to tell of the task", || {
        let answer = get(address, "/metrics").unwrap_or_default();
        lines.iter().all(|line| answer.contains(line))
    });
    let health = get(address, "/health").expect("an answer");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    applier.terminate();
    pair.assert_same_table("public.item");
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_is_done() {
    let mut pair = Pair::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("an address").to_string();
    let mut applier = pair.applier_with(&["run", "--listen", &listen], &[]);
    let outcome = applier.wait();
    outcome.assert_code(2);
    outcome.assert_says(&["--listen", "Give an address"]);
    pair.expect_log("--listen");
}
