//! Every built-in type arrives bit for bit, copied and followed, whatever the sessions' settings.

use trem_tests::{Content, Pair};

/// Settings that change how values look as text, different on either side.
const SETTINGS: [(&str, &str, &str); 6] = [
    ("TimeZone", "America/Sao_Paulo", "Asia/Kolkata"),
    ("DateStyle", "German", "SQL, DMY"),
    ("IntervalStyle", "sql_standard", "iso_8601"),
    ("extra_float_digits", "-15", "0"),
    ("bytea_output", "escape", "hex"),
    ("lc_monetary", "C", "C"),
];

fn pair_with_odd_settings() -> Pair {
    let mut pair = Pair::new();
    for (name, on_source, on_target) in SETTINGS {
        pair.source.exec(&format!("ALTER DATABASE shop SET {name} = '{on_source}'"));
        pair.target.exec(&format!("ALTER DATABASE warehouse SET {name} = '{on_target}'"));
    }
    pair.reconnect();
    pair
}

/// Columns of one table: a type and the values to try, each an SQL expression.
type Columns = [(&'static str, &'static [&'static str])];

const NUMBERS: &Columns = &[
    ("smallint", &["-32768", "0", "32767"]),
    ("integer", &["-2147483648", "0", "2147483647"]),
    ("bigint", &["-9223372036854775808", "0", "9223372036854775807"]),
    ("real", &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1.17549435e-38", "0.1"]),
    ("double precision", &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "5e-324", "0.1"]),
    (
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "0.000",
            "-1e-1000",
            "1e1000",
            "1234567890.0987654321",
        ],
    ),
    ("numeric(10,2)", &["'NaN'", "-99999999.99", "1.5"]),
    ("numeric(5,-2)", &["12300"]),
    ("money", &["'-92233720368547758.08'", "'1.99'"]),
    ("boolean", &["true", "false"]),
    ("oid", &["0", "4294967295"]),
    ("xid", &["'4294967295'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("cid", &["'7'"]),
    ("bit(5)", &["B'10101'"]),
    ("bit varying(70)", &["B''", "B'1'", "B'10101010101010101'"]),
];

const TEXTS: &Columns = &[
    ("text", &["''", "' '", "E'tab\\tnew\\nline\\\\N \\r'", "'Ordem de Serviço 漢字 🐘'", "'\\N'"]),
    ("character varying(10)", &["''", "'ten chars '"]),
    ("character(5)", &["''", "'ab'"]),
    ("\"char\"", &["'x'", "''"]),
    ("name", &["'a name'"]),
    ("bytea", &["''", "'\\x00ff5c27'", "decode(repeat('00', 2000), 'hex')"]),
    ("json", &["'{\"a\": 1,   \"a\": null}'", "'[]'", "'\"\\u00e9\"'"]),
    ("jsonb", &["'{\"b\": 1e3, \"a\": [null, true, \"é\"]}'", "'null'", "'{}'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"c\">é</a>'", "''"]),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("tsvector", &["''", "'''it''''s'':1A,2B cat:3'"]),
    ("tsquery", &["'cat & (dog | !rat:*)'", "''"]),
];

const TIMES: &Columns = &[
    ("date", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2024-02-29'"]),
    ("time", &["'00:00'", "'24:00'", "'23:59:59.999999'"]),
    ("time(0)", &["'12:34:56'"]),
    ("time with time zone", &["'00:00+15:59'", "'24:00-15:59'", "'12:00:00.000001+00'"]),
    (
        "timestamp",
        &["'infinity'", "'-infinity'", "'4713-01-01 00:00 BC'", "'294276-12-31 23:59:59.999999'"],
    ),
    (
        "timestamp with time zone",
        &["'infinity'", "'-infinity'", "'4713-01-02 00:00+00 BC'", "'294276-12-31 23:59:59+00'"],
    ),
    ("timestamp(3) with time zone", &["'2024-10-27 02:30:00.123+01'"]),
    ("interval", &["'0'", "'-178000000 years'", "'1 mon -1 day +00:00:00.000001'"]),
    ("interval day to second(2)", &["'1 2:03:04.56'"]),
];

const PLACES: &Columns = &[
    ("inet", &["'::1/128'", "'192.168.1.5/24'", "'fe80::1/10'"]),
    ("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("point", &["'(NaN,-0)'", "'(Infinity,1e-300)'"]),
    ("line", &["'{1,-2,3}'"]),
    ("lseg", &["'[(0,0),(1,0.1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"]),
    ("polygon", &["'((0,0),(1,1),(2,0))'"]),
    ("circle", &["'<(0,0),0.1>'"]),
    ("pg_lsn", &["'FFFFFFFF/FFFFFFFF'", "'0/0'"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("txid_snapshot", &["'10:20:10,14,15'"]),
    ("tid", &["'(4294967295,65535)'"]),
];

const ARRAYS: &Columns = &[
    ("integer[]", &["'{}'", "'{NULL,1,NULL}'", "'[-1:1]={1,2,3}'", "'{{1,2},{3,NULL}}'"]),
    ("text[]", &["'{}'", "'{\"\",NULL,\"a,b\",\"\\\"q\\\"\",NULL,\"null\"}'", "'{{é},{漢}}'"]),
    ("numeric[]", &["'{NaN,1.10,Infinity}'"]),
    ("timestamp with time zone[]", &["'{infinity,2024-01-01 00:00+00}'"]),
    ("jsonb[]", &["array['{}'::jsonb, null]"]),
    ("bytea[]", &["array['\\x00'::bytea, '']"]),
    ("boolean[]", &["'{t,NULL,f}'"]),
    ("box[]", &["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("int4range", &["'empty'", "'[1,5)'", "'(,)'", "'[3,)'"]),
    ("int8range", &["'[1,9223372036854775807)'"]),
    ("numrange", &["'(0.1,NaN]'", "'[-Infinity,0]'"]),
    ("daterange", &["'[2024-01-01,infinity)'"]),
    ("tsrange", &["'[2024-01-01 00:00,infinity]'"]),
    ("tstzrange", &["'(,2024-01-01 00:00+00]'"]),
    ("int4multirange", &["'{}'", "'{[1,3),[5,8),[10,)}'"]),
    ("nummultirange", &["'{[0.1,0.2],(1,)}'"]),
    ("tstzmultirange", &["'{[2024-01-01 00:00+00,2024-01-02 00:00+00)}'"]),
    ("daterange[]", &["'{\"[2024-01-01,2024-01-02)\",NULL,empty}'"]),
];

/// A table with one column for each type, and one row for each value, all other columns NULL.
fn table_of(columns: &Columns) -> (String, Vec<String>) {
    let definitions: Vec<_> =
        columns.iter().enumerate().map(|(at, (name, _))| format!("c{at} {name}")).collect();
    let create = format!("CREATE TABLE every (id int PRIMARY KEY, {})", definitions.join(", "));
    let mut inserts = vec!["INSERT INTO every (id) VALUES ({first} + 0)".to_owned()];
    for (at, (name, values)) in columns.iter().enumerate() {
        for value in *values {
            let id = inserts.len();
            inserts.push(format!(
                "INSERT INTO every (id, c{at}) VALUES ({{first}} + {id}, ({value})::{name})"
            ));
        }
    }
    (create, inserts)
}

fn insert_all(inserts: &[String], first: usize) -> String {
    inserts.iter().map(|insert| insert.replace("{first}", &first.to_string()) + ";").collect()
}

const TYPES_OF: &str = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute \
                        WHERE attrelid = 'every'::regclass AND attnum > 0";

fn check(pair: &mut Pair, columns: &Columns, content: Content) {
    let (create, inserts) = table_of(columns);
    pair.source.exec(&create);
    pair.source.exec(&insert_all(&inserts, 0));
    pair.create_task("t", &["public.every"]);
    pair.start_task("t");
    pair.replicate("t");
    let whole = "SELECT * FROM every";
    pair.assert_same_as(whole, whole, content);
    pair.assert_same(TYPES_OF, TYPES_OF);
    pair.follow("t", |source| {
        source.exec(&insert_all(&inserts, 1000));
        source.exec("UPDATE every SET id = id + 5000 WHERE id < 1000");
    });
    pair.assert_same_as(whole, whole, content);
}

#[test]
fn numbers_arrive_bit_for_bit() {
    check(&mut pair_with_odd_settings(), NUMBERS, Content::Binary);
}

#[test]
fn texts_and_documents_arrive_bit_for_bit() {
    check(&mut pair_with_odd_settings(), TEXTS, Content::Binary);
}

#[test]
fn times_arrive_bit_for_bit() {
    check(&mut pair_with_odd_settings(), TIMES, Content::Binary);
}

#[test]
fn addresses_shapes_and_positions_arrive_bit_for_bit() {
    check(&mut pair_with_odd_settings(), PLACES, Content::Binary);
}

#[test]
fn arrays_and_ranges_arrive_bit_for_bit() {
    check(&mut pair_with_odd_settings(), ARRAYS, Content::Binary);
}

const OWN_TYPES: &str = "CREATE SCHEMA \"Meu esquema\";
    CREATE TYPE \"Meu esquema\".mood AS ENUM ('sad', 'it''s ok', 'glücklich');
    ALTER TYPE \"Meu esquema\".mood ADD VALUE 'neutral' BEFORE 'it''s ok';
    CREATE DOMAIN positive AS numeric(8, 2) CHECK (VALUE > 0);
    CREATE DOMAIN short_list AS text[];
    CREATE TYPE pair AS (a int, \"B c\" text, d timestamptz)";

const OWN: &Columns = &[
    ("\"Meu esquema\".mood", &["'sad'", "'it''s ok'", "'neutral'", "'glücklich'"]),
    ("positive", &["0.01", "999999.99"]),
];

/// Their binary form holds OIDs, which differ between the clusters: compared as text.
const OWN_IN_OTHERS: &Columns = &[
    ("\"Meu esquema\".mood[]", &["'{}'", "'{sad,NULL,\"it''s ok\"}'"]),
    ("positive[]", &["'{0.01,NULL}'"]),
    ("short_list", &["'{}'", "'{a,\"b,c\",NULL}'"]),
    ("pair", &["'(1,\"a \"\"q\"\"\",infinity)'", "'(,,)'", "'(,\"\",)'"]),
    ("pair[]", &["'{\"(1,x,)\",NULL}'"]),
];

#[test]
fn enums_and_domains_arrive_bit_for_bit() {
    let mut pair = pair_with_odd_settings();
    for statement in OWN_TYPES.split(';') {
        pair.source.exec(statement);
    }
    check(&mut pair, OWN, Content::Binary);
}

#[test]
fn arrays_and_composites_of_ones_own_types_arrive() {
    let mut pair = pair_with_odd_settings();
    for statement in OWN_TYPES.split(';') {
        pair.source.exec(statement);
    }
    // Other OIDs on the target than on the source.
    pair.target.exec("CREATE TYPE distance AS ENUM ('shifts', 'the', 'oids')");
    check(&mut pair, OWN_IN_OTHERS, Content::Text);
}

#[test]
fn a_bytea_of_one_megabyte_and_a_text_of_ten_arrive() {
    let mut pair = Pair::new();
    let fill = "SELECT n, (SELECT decode(string_agg(md5(g::text || n), ''), 'hex')
                FROM generate_series(1, 65536) g), repeat('é0123456', 1111111)
                FROM generate_series({from}, {from} + 2) n";
    pair.source.exec("CREATE TABLE large (id int PRIMARY KEY, raw bytea, long text)");
    pair.source.exec(&format!("INSERT INTO large {}", fill.replace("{from}", "1")));
    pair.create_task("t", &["public.large"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("large");
    pair.follow("t", |source| {
        source.exec(&format!("INSERT INTO large {}", fill.replace("{from}", "10")));
    });
    pair.assert_same_table("large");
}

/// A table may have 1,600 columns; the sets of columns on the wire must hold them all.
#[test]
fn a_table_of_a_thousand_columns_arrives() {
    let mut pair = Pair::new();
    let columns: Vec<_> = (0..1000).map(|n| format!("c{n} smallint")).collect();
    pair.source.exec(&format!("CREATE TABLE wide (id int PRIMARY KEY, {})", columns.join(", ")));
    pair.source
        .exec("INSERT INTO wide (id, c0, c999) SELECT n, n, -n FROM generate_series(1, 50) n");
    pair.create_task("t", &["public.wide"]);
    pair.start_task("t");
    pair.replicate("t");
    pair.assert_same_table("wide");
    pair.follow("t", |source| {
        source.exec("UPDATE wide SET c500 = id; INSERT INTO wide (id, c998) VALUES (100, 1)");
    });
    pair.assert_same_table("wide");
}
