//! ALTER EXTENSION trem UPDATE, from every version that was released: what comes out is what a new
//! installation makes, and the tasks are still there.

use trem_tests::{extension_scripts, root, Cluster, Database};

/// Everything that belongs to the extension, one line for each thing that can differ.
const CATALOG: &str = r"
WITH member AS (
    SELECT d.classid, d.objid
    FROM pg_depend AS d
    WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
      AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'trem')
), relation AS (
    SELECT c.* FROM pg_class AS c JOIN member AS m
        ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
), described AS (
    SELECT 'function ' || p.oid::regprocedure AS what,
           pg_get_functiondef(p.oid) || coalesce(array_to_string(p.proacl, ' '), '') AS content
    FROM member AS m JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
    UNION ALL
    SELECT 'relation ' || r.oid::regclass,
           concat_ws(' ', r.relkind, r.relpersistence, r.relrowsecurity,
                     (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(r.relacl) AS a))
    FROM relation AS r
    UNION ALL
    SELECT format('column %s.%I', r.oid::regclass, a.attname),
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                     a.attgenerated, pg_get_expr(d.adbin, d.adrelid),
                     (SELECT string_agg(acl::text, ' ' ORDER BY acl::text)
                      FROM unnest(a.attacl) AS acl))
    FROM relation AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL
    SELECT format('constraint %s.%I', r.oid::regclass, c.conname), pg_get_constraintdef(c.oid)
    FROM relation AS r JOIN pg_constraint AS c ON c.conrelid = r.oid
    UNION ALL
    SELECT 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid)
    FROM relation AS r JOIN pg_index AS i ON i.indrelid = r.oid
    UNION ALL
    SELECT 'view ' || r.oid::regclass, pg_get_viewdef(r.oid) FROM relation AS r
    WHERE r.relkind = 'v'
    UNION ALL
    SELECT 'event trigger ' || t.evtname,
           concat_ws(' ', t.evtevent, t.evtfoid::regproc, t.evtenabled, t.evttags::text)
    FROM pg_event_trigger AS t
    UNION ALL
    SELECT 'schema ' || n.nspname, array_to_string(n.nspacl, ' ')
    FROM pg_namespace AS n WHERE n.nspname LIKE 'trem%'
    UNION ALL
    SELECT 'dumped ' || table_oid::regclass, condition
    FROM pg_extension, unnest(extconfig, extcondition) AS kept (table_oid, condition)
    WHERE extname = 'trem'
    UNION ALL
    SELECT 'comment of ' || identity,
           coalesce(obj_description(m.objid, m.classid::regclass::name), 'none')
    FROM member AS m, pg_identify_object(m.classid, m.objid, 0)
)
SELECT what, content FROM described ORDER BY 1, 2";

/// As version 0.1.0 kept a task, with all that it could have.
const OLD_TASK: &str = "
CREATE TABLE public.item (id int PRIMARY KEY, v text, secret text);
INSERT INTO public.item VALUES (1, 'a', 's');
INSERT INTO trem.endpoint (name, role, kind, dbname, username, options)
    VALUES ('src', 'source', 'postgresql', current_database(), 'applier', '{}');
INSERT INTO trem.endpoint (name, role, kind, dbname, host, port, username, password, options)
    VALUES ('dst', 'target', 'postgresql', 'd', 'h', 5432, 'u', 'geheim', '{}');
INSERT INTO trem.task (name, source, target, mode, state, definition_version)
    VALUES ('t', 'src', 'dst', 'full_load_and_cdc', 'started', 1);
INSERT INTO trem.task_table (task_id, kind, name, table_oid)
    SELECT task_id, 'table', 'public.item', 'public.item' FROM trem.task;
INSERT INTO trem.mask_key VALUES ('k', '\\x00');
INSERT INTO trem.rule (task_id, kind, table_oid, attnum, table_name, column_name, arguments)
    SELECT task_id, 'set_value', 'public.item', 2, 'public.item', 'v',
           '{\"expression\": \"trem.pseudonym(v, ''k'')\", \"columns\": {\"v\": 2}}' FROM trem.task;
INSERT INTO trem.definition (task_id, definition_version, content)
    SELECT task_id, 1, '{\"tables\": []}' FROM trem.task;
INSERT INTO trem.task_report (task_id, phase) SELECT task_id, 'cdc' FROM trem.task";

fn with_extension(cluster: &Cluster, dbname: &str, version: &str) -> Database {
    cluster.connect("postgres").exec(&format!("CREATE DATABASE {dbname}"));
    let mut database = cluster.connect(dbname);
    database.exec(&format!("CREATE EXTENSION trem {version}"));
    database
}

/// Puts the installation script of an old version beside the one of today.
fn install(version: &str) {
    let script = format!("trem--{version}.sql");
    let from = root().join("tests/upgrade").join(&script);
    std::fs::copy(from, extension_scripts().join(script)).expect("to install");
}

#[test]
fn an_upgraded_extension_is_as_a_new_one_and_keeps_its_tasks() {
    install("0.1.0");
    let cluster = Cluster::alone(&[]);
    cluster.connect("postgres").exec("CREATE ROLE applier LOGIN REPLICATION");
    let mut fresh = with_extension(&cluster, "fresh", "");
    let mut upgraded = with_extension(&cluster, "upgraded", "VERSION '0.1.0'");
    upgraded.exec(OLD_TASK);
    upgraded.exec("ALTER EXTENSION trem UPDATE");
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'trem'";
    assert_eq!(upgraded.text(version), fresh.text(version));
    let (wanted, found) = (fresh.rows(CATALOG), upgraded.rows(CATALOG));
    for line in &wanted {
        assert!(found.contains(line), "missing in the upgraded one: {line:?}");
    }
    for line in &found {
        assert!(wanted.contains(line), "not in a new one: {line:?}");
    }
    let task = "SELECT task, state, definition_version FROM trem.task_status";
    assert_eq!(upgraded.rows(task), [["t", "started", "1"].map(|text| Some(text.to_owned()))]);
    // The keys of pseudonyms stay what they were.
    assert_eq!(upgraded.text("SELECT key FROM trem.mask_key WHERE name = 'k'"), "\\x00");
    let rule = "SELECT kind, column_name FROM trem.transformation";
    assert_eq!(upgraded.rows(rule), [["set_value", "v"].map(|text| Some(text.to_owned()))]);
    let remedy = "SELECT trem.start_task('t', keep => true)";
    assert_eq!(upgraded.number(remedy), 2, "published anew, with what the new version wants");
}
