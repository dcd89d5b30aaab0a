//! Random expressions over everything that the server offers: functions, operators and casts as its
//! catalog lists them, and the forms that have a grammar of their own.

use trem_tests::{Database, Random};

use crate::values::{self, Kind, KINDS};

/// What makes a value of some type out of others: `{}` in the text stands for each of them.
struct Maker {
    text: String,
    arguments: Vec<String>,
    result: String,
}

const FUNCTIONS: &str = "
    SELECT format('pg_catalog.%I(%s)', proname,
               array_to_string(array_fill('{}'::text, ARRAY[pronargs]), ', ')),
           array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t), '|'),
           format_type(prorettype, NULL)
    FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
      AND provolatile <> 'v' AND pronargs BETWEEN 1 AND 5
    UNION ALL
    SELECT CASE oprleft WHEN 0 THEN format('(OPERATOR(pg_catalog.%s) {})', oprname)
               ELSE format('({} OPERATOR(pg_catalog.%s) {})', oprname) END,
           concat_ws('|', CASE WHEN oprleft <> 0 THEN format_type(oprleft, NULL) END,
                     format_type(oprright, NULL)),
           format_type(oprresult, NULL)
    FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprcode <> 0
    UNION ALL
    SELECT format('({})::%s', format_type(casttarget, NULL)), format_type(castsource, NULL),
           format_type(casttarget, NULL)
    FROM pg_cast
    ORDER BY 1, 2, 3";

/// Text, types of the arguments, type of the result.
const FORMS: &[(&str, &[&str], &str)] = &[
    ("CASE WHEN {} THEN {} ELSE {} END", &["boolean", "anyelement", "anyelement"], "anyelement"),
    ("coalesce({}, {})", &["anyelement", "anyelement"], "anyelement"),
    ("nullif({}, {})", &["anyelement", "anyelement"], "anyelement"),
    ("greatest({}, {})", &["anyelement", "anyelement"], "anyelement"),
    ("least({}, {})", &["anyelement", "anyelement"], "anyelement"),
    ("({} IS DISTINCT FROM {})", &["anyelement", "anyelement"], "boolean"),
    ("({} = ANY ({}))", &["anyelement", "anyarray"], "boolean"),
    ("({} < ALL ({}))", &["anyelement", "anyarray"], "boolean"),
    ("ARRAY[{}, {}]", &["anyelement", "anyelement"], "anyarray"),
    ("({})[{}]", &["anyarray", "integer"], "anyelement"),
    ("({})[{}:{}]", &["anyarray", "integer", "integer"], "anyarray"),
    ("(ROW({}, {}) < ROW({}, {}))", &["integer", "text", "integer", "text"], "boolean"),
    ("({}).a", &["public.pair"], "integer"),
    ("({}).b", &["public.pair"], "text"),
    ("ROW({}, {})::public.pair", &["integer", "text"], "public.pair"),
    ("({} LIKE {} ESCAPE {})", &["text", "text", "text"], "boolean"),
    ("({} SIMILAR TO {})", &["text", "text"], "boolean"),
    ("({} COLLATE \"C\")", &["text"], "text"),
    ("concat({}, {}, {})", &["anyelement", "text", "jsonb"], "text"),
    ("format({}, {}, {})", &["text", "anyelement", "text"], "text"),
    ("jsonb_build_object({}, {})", &["text", "anyelement"], "jsonb"),
    ("json_build_array({}, {})", &["anyelement", "public.pair"], "json"),
    ("to_jsonb({})", &["anyelement"], "jsonb"),
    ("({} IS NULL)", &["anyelement"], "boolean"),
    ("({})::public.positive", &["integer"], "public.positive"),
    ("trem.mask_partial({}, {}, {})", &["text", "integer", "integer"], "text"),
    ("trem.mask_email({})", &["text"], "text"),
    ("trem.mask_number({})", &["text"], "text"),
    ("trem.pseudonym({}, 'k')", &["text"], "text"),
];

/// Element types for what takes any.
const ELEMENTS: &[&str] = &["integer", "text", "numeric", "jsonb", "public.mood", "public.pair"];

/// What takes too long or too much by design, as it would anywhere: not what is looked for.
const COSTLY: &[&str] = &["pg_catalog.repeat(", "pg_catalog.factorial(", "pg_catalog.array_fill("];

pub(crate) struct Grammar {
    makers: Vec<Maker>,
}

/// An expression, with the columns that it reads.
pub(crate) struct Expression {
    pub(crate) sql: String,
    pub(crate) result: String,
    /// Name and type of each.
    pub(crate) columns: Vec<(String, &'static Kind)>,
}

impl Grammar {
    pub(crate) fn read(database: &mut Database) -> Grammar {
        let forms = FORMS.iter().map(|(text, arguments, result)| Maker {
            text: (*text).to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            result: (*result).to_owned(),
        });
        let listed = database.rows(FUNCTIONS).into_iter().map(|row| {
            let field = |at: usize| row[at].clone().unwrap_or_default();
            Maker {
                text: field(0),
                arguments: field(1).split('|').map(str::to_owned).collect(),
                result: field(2),
            }
        });
        // Any value is read from text, and written to it.
        let through_text = KINDS.iter().flat_map(|kind| {
            let cast = |from: &str, to: &str| Maker {
                text: format!("({{}})::{to}"),
                arguments: vec![from.to_owned()],
                result: to.to_owned(),
            };
            [cast("text", kind.name), cast(kind.name, "text")]
        });
        let makers: Vec<_> = forms
            .chain(listed)
            .chain(through_text)
            .filter(|maker| maker.arguments.iter().chain([&maker.result]).all(|of| is_known(of)))
            .filter(|maker| !COSTLY.iter().any(|costly| maker.text.starts_with(costly)))
            .collect();
        assert!(makers.len() > 2500, "the catalog offers much: {}", makers.len());
        Grammar { makers }
    }

    /// An expression around a maker that is drawn from all of them. `name` begins the names of its
    /// columns.
    pub(crate) fn expression(&self, random: &mut Random, name: &str) -> Expression {
        let maker = &self.makers[random.below(self.makers.len() as u64) as usize];
        let element = ELEMENTS[random.below(ELEMENTS.len() as u64) as usize];
        let mut writer = Writer { grammar: self, random, name, columns: Vec::new() };
        let sql = writer.make(maker, element, 2);
        let columns = writer.columns;
        Expression { sql, result: concrete(&maker.result, element), columns }
    }
}

fn is_known(name: &str) -> bool {
    values::find(&concrete(name, "integer")).is_some()
}

/// A polymorphic type with an element in its place.
fn concrete(name: &str, element: &str) -> String {
    match name {
        "anyelement" | "anynonarray" | "anycompatible" | "anycompatiblenonarray" => {
            element.to_owned()
        }
        "anyarray" | "anycompatiblearray" => format!("{element}[]"),
        "anyenum" => "public.mood".to_owned(),
        "anyrange" | "anycompatiblerange" => "int4range".to_owned(),
        "anymultirange" | "anycompatiblemultirange" => "int4multirange".to_owned(),
        "\"any\"" => "text".to_owned(),
        other => other.to_owned(),
    }
}

struct Writer<'a> {
    grammar: &'a Grammar,
    random: &'a mut Random,
    name: &'a str,
    columns: Vec<(String, &'static Kind)>,
}

impl Writer<'_> {
    fn make(&mut self, maker: &Maker, element: &str, depth: u32) -> String {
        let mut text = String::new();
        let mut parts = maker.text.split("{}");
        text.push_str(parts.next().unwrap_or_default());
        for (argument, part) in maker.arguments.iter().zip(parts) {
            let wanted = concrete(argument, element);
            text.push_str(&self.value(&wanted, depth - 1));
            text.push_str(part);
        }
        text
    }

    /// An expression of the type.
    fn value(&mut self, wanted: &str, depth: u32) -> String {
        let kind = values::find(wanted).expect("a known type");
        let draw = self.random.below(10);
        if depth > 0 && draw < 3 {
            let makers: Vec<_> =
                self.grammar.makers.iter().filter(|maker| maker.result == wanted).collect();
            if !makers.is_empty() {
                let maker = makers[self.random.below(makers.len() as u64) as usize];
                return self.make(maker, "integer", depth);
            }
        }
        if draw == 9 {
            return values::sql(
                kind,
                kind.values[self.random.below(kind.values.len() as u64) as usize],
            );
        }
        let there: Vec<_> = self.columns.iter().filter(|column| column.1.name == wanted).collect();
        if !there.is_empty() && draw < 5 {
            return there[0].0.clone();
        }
        let name = format!("{}_{}", self.name, self.columns.len());
        self.columns.push((name.clone(), kind));
        name
    }
}
