//! What happens to tables in the matrix of `history_matrix`.

/// What happens to a table. `$t` is its name.
pub(crate) struct Case {
    pub name: &'static str,
    /// Before the table is made: types.
    pub types: &'static str,
    /// The column that changes.
    pub column: &'static str,
    /// Between the parentheses of CREATE TABLE, behind the columns.
    pub key: &'static str,
    /// Behind the parentheses.
    pub partition: &'static str,
    /// After the table is made.
    pub setup: &'static str,
    /// Two values of the column, before and after the change.
    pub values: [&'static str; 2],
    pub values_after: [&'static str; 2],
    pub change: &'static str,
    /// The same on the target, where it differs.
    pub change_on_target: Option<&'static str>,
    /// What a rule reads: a text that the change leaves as it is.
    pub reads: &'static str,
    /// Where it must be written in other words then.
    pub reads_after: Option<&'static str>,
    /// The column as the target has it after the change; empty: it is gone.
    pub column_after: &'static str,
    /// The target cannot be changed by hand so that it is the same.
    pub reload: bool,
    /// What it brings cannot be used in its own transaction.
    pub alone: bool,
    /// Published, the stream cannot go on: what addresses the rows of before is not in the WAL.
    pub stops: bool,
}

const CASE: Case = Case {
    name: "",
    types: "",
    column: "a int",
    key: ", PRIMARY KEY (id)",
    partition: "",
    setup: "",
    values: ["11", "12"],
    values_after: ["11", "12"],
    change: "",
    change_on_target: None,
    reads: "right(a::text, 1)",
    reads_after: None,
    column_after: "a",
    reload: false,
    alone: false,
    stops: false,
};

const RETYPES: &[Case] = &[
    Case { name: "a wider type", change: "ALTER TABLE $t ALTER a TYPE bigint", ..CASE },
    Case {
        name: "a narrower type",
        column: "a bigint",
        change: "ALTER TABLE $t ALTER a TYPE int",
        ..CASE
    },
    Case {
        name: "a longer length",
        column: "a varchar(5)",
        values: ["'x1'", "'x2'"],
        values_after: ["'longer1'", "'longer2'"],
        change: "ALTER TABLE $t ALTER a TYPE varchar(20)",
        ..CASE
    },
    Case {
        name: "a shorter length",
        column: "a varchar(20)",
        values: ["'longer1'", "'longer2'"],
        values_after: ["'x1'", "'x2'"],
        change: "ALTER TABLE $t ALTER a TYPE varchar(5) USING right(a, 5)",
        ..CASE
    },
    Case {
        name: "another scale",
        column: "a numeric(10,4)",
        values: ["1.1101", "1.1202"],
        values_after: ["1.11", "1.12"],
        change: "ALTER TABLE $t ALTER a TYPE numeric(10,2)",
        reads: "left(a::text, 3)",
        ..CASE
    },
    Case {
        name: "a number becomes a text",
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t ALTER a TYPE text",
        ..CASE
    },
    Case {
        name: "a text becomes a number",
        column: "a text",
        values: ["'1600001'", "'1600002'"],
        change: "ALTER TABLE $t ALTER a TYPE int USING a::int",
        ..CASE
    },
    Case {
        name: "another type by an expression",
        values: ["1600001", "1600002"],
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t ALTER a TYPE text USING 'v' || a",
        ..CASE
    },
    Case {
        name: "a time gets a zone",
        column: "a timestamp",
        values: ["'2020-01-01 10:00'", "'2020-01-02 10:00'"],
        values_after: ["'2020-01-01 10:00Z'", "'2020-01-02 10:00Z'"],
        change: "ALTER TABLE $t ALTER a TYPE timestamptz",
        reads: "extract(day FROM a)::text",
        ..CASE
    },
    Case {
        name: "a time loses its zone",
        column: "a timestamptz",
        values: ["'2020-01-01 10:00Z'", "'2020-01-02 10:00Z'"],
        values_after: ["'2020-01-01 10:00'", "'2020-01-02 10:00'"],
        change: "ALTER TABLE $t ALTER a TYPE timestamp",
        reads: "extract(day FROM a)::text",
        ..CASE
    },
    Case {
        name: "the key's type",
        change: "ALTER TABLE $t ALTER id TYPE varchar(100)",
        stops: true,
        ..CASE
    },
];

const COLUMNS: &[Case] = &[
    Case {
        name: "a column is added",
        change: "ALTER TABLE $t ADD b text",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column with a constant default is added",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column with a volatile default is added",
        change: "ALTER TABLE $t ADD b float8 NOT NULL DEFAULT random()",
        column_after: "a, b",
        reload: true,
        ..CASE
    },
    Case {
        name: "a column is added and its default changed",
        change: "ALTER TABLE $t ADD b int DEFAULT 5; ALTER TABLE $t ALTER b SET DEFAULT 6",
        column_after: "a, b",
        ..CASE
    },
    Case {
        name: "a column is added that rules read",
        change: "ALTER TABLE $t ADD b text DEFAULT '1'",
        reads_after: Some("coalesce(b, right(a::text, 1))"),
        column_after: "a, b",
        reload: true,
        ..CASE
    },
    Case {
        name: "a column is dropped",
        change: "ALTER TABLE $t DROP a",
        reads: "right(u::text, 1)",
        column_after: "",
        ..CASE
    },
    Case {
        name: "a column is renamed",
        change: "ALTER TABLE $t RENAME a TO b",
        reads_after: Some("right(b::text, 1)"),
        column_after: "b",
        ..CASE
    },
    Case {
        name: "a column is dropped and made anew",
        values_after: ["'n1'", "'n2'"],
        change: "ALTER TABLE $t DROP a; ALTER TABLE $t ADD a text DEFAULT 'd1'",
        reads: "right(u::text, 1)",
        ..CASE
    },
    Case {
        name: "a default of before is read later",
        setup: "INSERT INTO $t (id, m, u) VALUES ('old1', 'm', 91), ('old2', 'm', 92);
                ALTER TABLE $t DROP a; ALTER TABLE $t ADD a int NOT NULL DEFAULT 17;
                ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ALTER a TYPE bigint",
        ..CASE
    },
];

const IDENTITIES: &[Case] = &[
    Case {
        name: "the whole row identifies",
        change: "ALTER TABLE $t REPLICA IDENTITY FULL",
        ..CASE
    },
    Case {
        name: "the key identifies again",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t REPLICA IDENTITY DEFAULT",
        ..CASE
    },
    Case {
        name: "an index identifies",
        setup: "CREATE UNIQUE INDEX $t_u ON $t (u)",
        change: "ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_u",
        change_on_target: Some(
            "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (u)",
        ),
        stops: true,
        ..CASE
    },
    Case {
        name: "the key instead of an index",
        setup: "CREATE UNIQUE INDEX $t_u ON $t (u);
                ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_u",
        change: "ALTER TABLE $t REPLICA IDENTITY DEFAULT",
        change_on_target: Some(
            "ALTER TABLE $t DROP CONSTRAINT IF EXISTS $t_u, DROP CONSTRAINT IF EXISTS $t_pkey;
             DROP INDEX IF EXISTS $t_u; ALTER TABLE $t ADD PRIMARY KEY (id)",
        ),
        stops: true,
        ..CASE
    },
    Case {
        name: "nothing identifies",
        change: "ALTER TABLE $t REPLICA IDENTITY NOTHING",
        stops: true,
        ..CASE
    },
    Case {
        name: "nothing identified before",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL; ALTER TABLE $t DROP CONSTRAINT $t_pkey",
        change: "ALTER TABLE $t ADD PRIMARY KEY (id)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key is another column",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (u)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key becomes shorter",
        key: ", PRIMARY KEY (id, m)",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (id)",
        stops: true,
        ..CASE
    },
    Case {
        name: "the key becomes longer",
        change: "ALTER TABLE $t DROP CONSTRAINT $t_pkey; ALTER TABLE $t ADD PRIMARY KEY (id, u)",
        stops: true,
        ..CASE
    },
    Case {
        name: "a column is added to a table without a key",
        key: "",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        column_after: "a, b",
        stops: true,
        ..CASE
    },
    Case {
        name: "a table without a key gets a wider type",
        key: "",
        setup: "ALTER TABLE $t REPLICA IDENTITY FULL",
        change: "ALTER TABLE $t ALTER a TYPE bigint",
        stops: true,
        ..CASE
    },
];

const MOOD: &str = "CREATE TYPE $t_mood AS ENUM ('bad', 'good')";
const PAIR: &str = "CREATE TYPE $t_pair AS (x int, y int)";

const TYPES: &[Case] = &[
    Case {
        name: "a label comes before others",
        types: MOOD,
        column: "a $t_mood",
        values: ["'bad'", "'good'"],
        values_after: ["'awful'", "'good'"],
        change: "ALTER TYPE $t_mood ADD VALUE 'awful' BEFORE 'bad'",
        alone: true,
        reads: "(a > 'bad')::text",
        ..CASE
    },
    Case {
        name: "a label is renamed",
        types: MOOD,
        column: "a $t_mood",
        values: ["'bad'", "'good'"],
        values_after: ["'sad'", "'good'"],
        change: "ALTER TYPE $t_mood RENAME VALUE 'bad' TO 'sad'",
        reads: "length(a::text)::text",
        ..CASE
    },
    Case {
        name: "a label of an array is renamed",
        types: MOOD,
        column: "a $t_mood[]",
        values: ["'{bad}'", "'{good,bad}'"],
        values_after: ["'{sad}'", "'{good,sad}'"],
        change: "ALTER TYPE $t_mood RENAME VALUE 'bad' TO 'sad'",
        reads: "cardinality(a)::text",
        ..CASE
    },
    Case {
        name: "an attribute is dropped and made anew",
        types: PAIR,
        column: "a $t_pair",
        values: ["(1, 1600001)", "(2, 1600002)"],
        values_after: ["(1, 'n1')", "(2, 'n2')"],
        change: "ALTER TYPE $t_pair DROP ATTRIBUTE y; ALTER TYPE $t_pair ADD ATTRIBUTE y text",
        reads: "(a).x::text",
        ..CASE
    },
    Case {
        name: "a type is made for a column that was there",
        change: "CREATE DOMAIN $t_small AS int CHECK (VALUE < 100);
                 ALTER TABLE $t ALTER a TYPE $t_small",
        ..CASE
    },
];

const PARTITIONS: &str = "CREATE TABLE $t_1 PARTITION OF $t FOR VALUES IN (11);
    CREATE TABLE $t_2 PARTITION OF $t FOR VALUES IN (12)";

const PARTITIONED: Case = Case {
    key: ", PRIMARY KEY (id, a)",
    partition: " PARTITION BY LIST (a)",
    setup: PARTITIONS,
    change_on_target: Some(""),
    ..CASE
};

const PARTITION_CHANGES: &[Case] = &[
    Case {
        name: "a row moves between partitions",
        change: "UPDATE $t SET a = 23 - a",
        reads: "right(u::text, 1)",
        ..PARTITIONED
    },
    Case {
        name: "a partition is detached",
        change: "ALTER TABLE $t DETACH PARTITION $t_2;
                 CREATE TABLE $t_3 PARTITION OF $t FOR VALUES IN (12, 13)",
        change_on_target: Some("DELETE FROM $t WHERE a = 12"),
        reload: true,
        ..PARTITIONED
    },
    Case {
        name: "a partition is attached",
        change: "CREATE TABLE $t_3 (LIKE $t INCLUDING ALL);
                 INSERT INTO $t_3 VALUES ('p1', 'm', 61, 'w', 13), ('p2', 'm', 62, 'w', 13);
                 ALTER TABLE $t ATTACH PARTITION $t_3 FOR VALUES IN (13)",
        values_after: ["13", "12"],
        reload: true,
        ..PARTITIONED
    },
    Case {
        name: "a partition has other numbers",
        setup: "CREATE TABLE $t_1 PARTITION OF $t FOR VALUES IN (11);
                CREATE TABLE $t_2 (gone int, a int NOT NULL, u int NOT NULL, w text, m text
                    NOT NULL, id text NOT NULL); ALTER TABLE $t_2 DROP gone;
                ALTER TABLE $t ATTACH PARTITION $t_2 FOR VALUES IN (12)",
        change: "ALTER TABLE $t ADD b int NOT NULL DEFAULT 5",
        change_on_target: None,
        column_after: "a, b",
        ..PARTITIONED
    },
];

pub(crate) const ALL: [&[Case]; 5] = [RETYPES, COLUMNS, IDENTITIES, TYPES, PARTITION_CHANGES];
