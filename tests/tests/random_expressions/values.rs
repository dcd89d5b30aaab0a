//! Types and hostile values of each.
//!
//! Not among the texts: `now`, `today` and the like. Read as a time they are the time of reading,
//! which is another one in the stream than in the copy; nobody can tell them from any other text of
//! a row.

/// A type as `format_type` names it, and values: a literal, or an expression behind `=`.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) values: &'static [&'static str],
}

const fn kind(name: &'static str, values: &'static [&'static str]) -> Kind {
    Kind { name, values }
}

pub(crate) const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0)";

/// What an expression gives of these goes out as text: those made by [`TYPES`], and one of which
/// the server computes values that it does not read again.
pub(crate) const AS_TEXT: [&str; 4] = ["public.mood", "public.pair", "public.positive", "circle"];

pub(crate) const KINDS: &[Kind] = &[
    kind("boolean", &["true", "false"]),
    kind("smallint", &["0", "1", "-1", "7", "32767", "-32768"]),
    kind("integer", &["0", "1", "-1", "2", "5", "17", "1000", "2147483647", "-2147483648"]),
    kind("bigint", &["0", "1", "-1", "3", "900", "9223372036854775807", "-9223372036854775808"]),
    kind(
        "numeric",
        &[
            "0",
            "1",
            "-1",
            "0.5",
            "-0.0001",
            "100",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "123456789012345678901234567890.123456789",
            "1e-200",
        ],
    ),
    kind("real", &["0", "1", "-1", "0.1", "NaN", "Infinity", "-Infinity", "3e38", "1e-45"]),
    kind(
        "double precision",
        &["0", "-0", "1", "-1", "0.1", "NaN", "Infinity", "-Infinity", "1e308", "5e-324"],
    ),
    kind(
        "text",
        &[
            "",
            " ",
            "a",
            "abc",
            "Zürich",
            "日本語",
            "😀",
            "1",
            "-7",
            "0x1F",
            "1e5",
            "NaN",
            "\\",
            "%",
            "_",
            "'",
            "\"",
            "{",
            "{1,2}",
            "{\"a\": [1, {}]}",
            "[1,2",
            "null",
            "(",
            "(a+)+$",
            "(x+x+)+y",
            "a{1,200}",
            "\\1",
            "$1",
            "%s %I",
            "%1$s",
            "YYYY-MM-DD HH24:MI:SS.US TZ",
            "9G999D99",
            "2024-02-30",
            "infinity",
            "4713-01-01 BC",
            "-infinity",
            "10.0.0.0/8",
            "::1",
            "<a><b/></a>",
            "<a",
            "//b",
            "$.a[*] ? (@ > 1)",
            "a & !b",
            "a:* <-> b",
            "hex",
            "base64",
            "escape",
            "UTF8",
            "LATIN1",
            "SQL_ASCII",
            "KOI8R",
            "UTC",
            "Europe/Zurich",
            "EST5EDT",
            "year",
            "epoch",
            "en-x-icu",
            "ok",
            "(1,2)",
            "[1,5)",
            "empty",
            "=repeat('x', 3000)",
            "=repeat('[', 20000)",
            "=repeat('é', 1500)",
            "=repeat('a ', 2000)",
            "=chr(1) || chr(127)",
            "=repeat('(', 5000)",
        ],
    ),
    kind("character varying", &["", "abc", "  x ", "ß", "=repeat('v', 2100)"]),
    kind("character", &["", "a", "é", " "]),
    kind("name", &["", "pg_class", "UTF8", "Ünïcode"]),
    kind(
        "bytea",
        &[
            "\\x",
            "\\x00",
            "\\xff",
            "\\xc3",
            "\\xc328",
            "\\xed a0 80",
            "\\xf09f9880",
            "=decode(repeat('ff00', 2000), 'hex')",
            "=convert_to('Zürich', 'UTF8')",
        ],
    ),
    kind(
        "date",
        &[
            "2024-02-29",
            "1970-01-01",
            "4713-01-01 BC",
            "infinity",
            "-infinity",
            "5874897-12-31",
            "0001-01-01",
        ],
    ),
    kind("time without time zone", &["00:00", "24:00", "23:59:59.999999"]),
    kind("time with time zone", &["00:00+15:59", "24:00-15:59", "12:00:00.5+00:00:30"]),
    kind(
        "timestamp without time zone",
        &[
            "2024-02-29 12:00",
            "4713-01-01 00:00 BC",
            "infinity",
            "-infinity",
            "294276-12-31 23:59:59.999999",
            "2000-01-01",
        ],
    ),
    kind(
        "timestamp with time zone",
        &[
            "2024-03-31 02:30+01",
            "4713-01-01 00:00 BC",
            "infinity",
            "-infinity",
            "294276-12-31 00:00",
            "1900-01-01",
        ],
    ),
    kind(
        "interval",
        &[
            "0",
            "1 day",
            "-1 mon 3 days -04:05:06.7",
            "178000000 years",
            "-178000000 years",
            "2147483647 days",
            "1 microsecond",
        ],
    ),
    kind(
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "12345678-1234-4321-8888-123456789abc",
        ],
    ),
    kind(
        "inet",
        &[
            "0.0.0.0/0",
            "10.1.2.3",
            "::",
            "fe80::1/10",
            "255.255.255.255/31",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ],
    ),
    kind("cidr", &["0.0.0.0/0", "10.0.0.0/8", "::/0", "2001:db8::/32"]),
    kind("macaddr", &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]),
    kind(
        "json",
        &[
            "null",
            "1",
            "\"x\"",
            "[]",
            "{}",
            "{\"a\": {\"b\": [1, \"\\u0000\"]}}",
            "[1e400, -0, 1e-400]",
            "{\"a\": 1, \"a\": 2}",
            "[[[[1]]]]",
            "=(repeat('[', 1000) || repeat(']', 1000))::json",
        ],
    ),
    kind(
        "jsonb",
        &[
            "null",
            "1",
            "\"x\"",
            "[]",
            "{}",
            "{\"a\": {\"b\": [1, null]}}",
            "[1e400, -0]",
            "[1, \"a\", true, {\"a\": \"2024-01-01\"}]",
            "=(repeat('[', 1000) || repeat(']', 1000))::jsonb",
        ],
    ),
    kind(
        "jsonpath",
        &[
            "$",
            "$.a",
            "$.**",
            "strict $[last]",
            "$.a.b[*] ? (@ > 1)",
            "$[*].datetime()",
            "$.double()",
            "$ ? (@ like_regex \"(a+)+$\")",
            "-$",
        ],
    ),
    kind(
        "xml",
        &[
            "<a/>",
            "text",
            "<a><b c=\"1\">é</b></a>",
            "<!-- c -->",
            "<a xmlns=\"rel\">x</a>",
            "<?xml version=\"1.0\"?><a/>",
            "",
        ],
    ),
    kind(
        "tsvector",
        &["", "a", "'a':1A,2B 'b':16383", "=to_tsvector('simple', repeat('word ', 500))"],
    ),
    kind("tsquery", &["", "a", "!a", "a & b | !c", "a <1000> b", "a:*AB"]),
    kind("bit", &["0", "1"]),
    kind(
        "bit varying",
        &[
            "",
            "1",
            "1010101010101010101010101010101010101010101010101",
            "=repeat('10', 1000)::varbit",
        ],
    ),
    kind("point", &["(0,0)", "(NaN,1)", "(Infinity,-Infinity)", "(1e308,1e308)", "(1,-1)"]),
    kind("line", &["{1,-1,0}", "{0,1,NaN}", "{1e300,1e-300,1}"]),
    kind("lseg", &["[(0,0),(0,0)]", "[(1,2),(3,4)]", "[(NaN,0),(1e308,-1e308)]"]),
    kind("box", &["(0,0),(0,0)", "(1,1),(-1,-1)", "(NaN,1),(1e308,-1e308)"]),
    kind("path", &["[(0,0)]", "((0,0),(1,1),(2,0))", "[(1e308,1e308),(NaN,0)]"]),
    kind("polygon", &["((0,0))", "((0,0),(1,1),(2,0))", "((1e308,1e308),(-1e308,1e308),(NaN,0))"]),
    kind("circle", &["<(0,0),0>", "<(1,1),1e308>", "<(NaN,0),5>"]),
    kind("money", &["0", "1", "-92233720368547758.08", "92233720368547758.07"]),
    kind("oid", &["0", "1", "25", "4294967295"]),
    kind("pg_lsn", &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"]),
    kind("xid8", &["0", "18446744073709551615"]),
    kind("pg_snapshot", &["10:20:10,14,15", "1:1:"]),
    kind("int4range", &["empty", "(,)", "[1,5)", "[2147483646,2147483647)", "(-2147483648,0]"]),
    kind("numrange", &["empty", "[1.5,NaN]", "(-Infinity,Infinity)", "[0,0]"]),
    kind("tstzrange", &["empty", "[2000-01-01,infinity)", "(,2024-01-01)"]),
    kind("daterange", &["empty", "[-infinity,infinity]", "[2024-01-01,2024-02-29)"]),
    kind("int4multirange", &["{}", "{[1,2),[5,7)}", "{(,)}"]),
    kind(
        "integer[]",
        &[
            "{}",
            "{1,2,3}",
            "{NULL}",
            "{{1,2},{3,4}}",
            "[5:6]={1,2}",
            "[-2147483648:-2147483648]={1}",
            "[2147483646:2147483646]={1}",
        ],
    ),
    kind("text[]", &["{}", "{a,NULL,\"\"}", "{{\"{}\"},{\"\\\\\"}}", "{a,b,c}", "{/a,x}"]),
    kind("numeric[]", &["{}", "{NaN,1,Infinity}", "{NULL}"]),
    kind("jsonb[]", &["{}", "{\"1\",\"{}\"}"]),
    kind("public.mood", &["sad", "ok", "happy"]),
    kind("public.mood[]", &["{}", "{sad,NULL}", "{ok,happy}"]),
    kind("public.pair", &["(1,x)", "(,)", "(2147483647,\"a\"\"b\")"]),
    kind("public.pair[]", &["{}", "{\"(1,x)\",NULL}"]),
    kind("public.positive", &["1", "2147483647"]),
];

pub(crate) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// A value as SQL writes it.
pub(crate) fn sql(kind: &Kind, value: &str) -> String {
    match value.strip_prefix('=') {
        Some(expression) => format!("({expression})::{}", kind.name),
        None => format!("'{}'::{}", value.replace('\'', "''"), kind.name),
    }
}
