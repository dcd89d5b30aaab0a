//! Values that an UPDATE did not touch are not in the WAL: the target keeps what it has, and no
//! NULL ever takes their place.

use trem_tests::{noise, Pair};

fn with_documents(identity: &str) -> Pair {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "CREATE TABLE document (id int PRIMARY KEY, title text, body text, raw bytea);
         {identity};
         INSERT INTO document SELECT n, 'title', {body}, convert_to({raw}, 'UTF8')
         FROM generate_series(1, 20) n",
        body = noise("n"),
        raw = noise("n * 1000"),
    ));
    pair.create_task("t", &["public.document"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("public.document");
    pair
}

fn check(identity: &str) {
    let mut pair = with_documents(identity);
    let body = noise("id * 7");
    pair.follow("t", |source| {
        source.exec("UPDATE document SET title = 'only the title'");
        source.exec(&format!("UPDATE document SET body = {body} WHERE id % 4 = 0"));
        source.exec("UPDATE document SET raw = NULL WHERE id % 5 = 0");
        source.exec("UPDATE document SET id = id + 100 WHERE id % 3 = 0");
        source.exec(
            "BEGIN; UPDATE document SET title = 'twice' WHERE id = 1;
             UPDATE document SET body = 'short' WHERE id = 1;
             UPDATE document SET title = 'thrice' WHERE id = 1; COMMIT",
        );
        source.exec(
            "BEGIN; UPDATE document SET title = 'gone' WHERE id = 2;
            DELETE FROM document WHERE id = 2; COMMIT",
        );
    });
    pair.assert_same_table("public.document");
    let lost = "SELECT count(*) FROM document WHERE body IS NULL OR (raw IS NULL AND id % 5 <> 0 \
                AND (id - 100) % 5 <> 0)";
    assert_eq!(pair.target.number(lost), 0);
}

#[test]
fn an_untouched_large_value_stays_as_it_is() {
    check("SELECT 1");
}

#[test]
fn an_untouched_large_value_stays_as_it_is_with_identity_full() {
    check("ALTER TABLE document REPLICA IDENTITY FULL");
}

#[test]
fn a_row_inserted_and_updated_in_one_transaction_keeps_its_large_value() {
    let mut pair = with_documents("SELECT 1");
    let body = noise("'new'");
    pair.follow("t", |source| {
        source.exec(&format!(
            "BEGIN; INSERT INTO document VALUES (50, 'new', {body}, NULL);
             UPDATE document SET title = 'updated' WHERE id = 50;
             UPDATE document SET id = 51 WHERE id = 50; COMMIT"
        ));
    });
    pair.assert_same_table("public.document");
}

#[test]
fn large_values_stored_in_every_way_come_through() {
    let mut pair = Pair::new();
    pair.source.exec(&format!(
        "CREATE TABLE document (id int PRIMARY KEY, n int, external text, main text, plain text);
         ALTER TABLE document ALTER external SET STORAGE EXTERNAL, ALTER main SET STORAGE MAIN,
             ALTER plain SET STORAGE PLAIN;
         INSERT INTO document SELECT n, n, {body}, left({body}, 3000), left({body}, 2000)
         FROM generate_series(1, 10) n",
        body = noise("n"),
    ));
    pair.create_task("t", &["public.document"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("public.document");
    pair.follow("t", |source| source.exec("UPDATE document SET n = n + 1"));
    pair.assert_same_table("public.document");
}
