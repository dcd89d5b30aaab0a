//! The types of the tables' columns: which the target must be given, in what order, and whether
//! their binary form means the same in another database.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use trem_wire::definition::DefinedType;

use super::problem::Problem;
use super::shape::Shape;
use super::{name, spi};
use crate::error::Error;

/// OIDs below are the same in every database of every version (FirstGenbkiObjectId).
const FIXED_OIDS_END: u32 = 10_000;
/// `int2vector`, `oidvector`, `tsquery`: what is sent for an empty one is refused on receipt, of
/// `tsquery` by the minor releases before August 2026.
const NOT_RECEIVED_EMPTY: [u32; 3] = [22, 30, 3615];
/// OIDs from here on are made by users and extensions (FirstNormalObjectId).
const USER_OIDS_START: u32 = 16_384;

#[derive(Deserialize)]
struct Type {
    oid: u32,
    schema: String,
    name: String,
    /// `pg_type.typtype`.
    kind: String,
    /// The element of an array, the base of a domain, the subtype of a range, the range of a
    /// multirange.
    inner: Option<u32>,
    is_array: bool,
    /// `reg*`: a value is an OID, and means something by its name only.
    is_reg: bool,
    has_binary: bool,
    /// The row type of a table.
    is_row_type: bool,
    extension: Option<String>,
    fields: Vec<Field>,
    labels: Vec<String>,
    /// Of a domain or range: what follows `AS`.
    clause: Option<String>,
    /// Checks of a domain that the target cannot evaluate.
    checks_left_out: bool,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    type_oid: u32,
    type_name: String,
    collation: Option<String>,
}

pub(crate) struct Types {
    by_oid: HashMap<u32, Type>,
}

impl Types {
    /// The types of these OIDs and all that they are made of.
    pub(crate) fn load(used: impl Iterator<Item = u32>) -> Result<Types, Error> {
        let mut by_oid = HashMap::new();
        let mut wanted: BTreeSet<u32> = used.collect();
        while !wanted.is_empty() {
            let found: Vec<Type> = spi::rows(TYPES, &[spi::oids(wanted.iter().copied()).into()])?;
            wanted = found.iter().flat_map(Type::parts).collect();
            by_oid.extend(found.into_iter().map(|found| (found.oid, found)));
            wanted.retain(|oid| !by_oid.contains_key(oid));
        }
        Ok(Types { by_oid })
    }

    /// Whether rows with this type may travel in binary. `array_send` and `record_send` write the
    /// OIDs of their parts; `range_send`, `enum_send` and domains do not.
    pub(crate) fn is_portable(&self, oid: u32) -> bool {
        let Some(of) = self.by_oid.get(&oid) else { return false };
        let parts_named_by_oid = of.is_array || of.kind == "c";
        of.has_binary
            && !of.is_reg
            && !NOT_RECEIVED_EMPTY.contains(&oid)
            && of.parts().all(|part| {
                (!parts_named_by_oid || part < FIXED_OIDS_END) && self.is_portable(part)
            })
    }

    /// The types of users that these need, each after what it is made of.
    pub(crate) fn defined(&self, used: impl Iterator<Item = u32>) -> Vec<DefinedType> {
        let mut defined = Vec::new();
        let mut seen = BTreeSet::new();
        for oid in used {
            self.define(oid, &mut seen, &mut defined);
        }
        defined
    }

    fn define(&self, oid: u32, seen: &mut BTreeSet<u32>, defined: &mut Vec<DefinedType>) {
        let Some(of) = self.by_oid.get(&oid) else { return };
        if !seen.insert(oid) {
            return;
        }
        of.parts().for_each(|part| self.define(part, seen, defined));
        if let Some(create_statement) = of.create_statement() {
            let name = name::qualified(&of.schema, &of.name);
            defined.push(DefinedType { name, schema: of.schema.clone(), create_statement });
        }
    }

    /// Reports columns whose types the target cannot have, or must be given by hand.
    pub(crate) fn check(&self, shape: &Shape, problems: &mut Vec<Problem>) {
        for column in &shape.columns {
            let mut seen = BTreeSet::new();
            self.visit(column.output.type_oid, &mut seen);
            for of in seen.iter().filter_map(|oid| self.by_oid.get(oid)) {
                if let Some(problem) = of.problem(column.display()) {
                    problems.push(problem.of(shape.table.display()));
                }
            }
        }
    }

    fn visit(&self, oid: u32, seen: &mut BTreeSet<u32>) {
        if seen.insert(oid) {
            if let Some(of) = self.by_oid.get(&oid) {
                of.parts().for_each(|part| self.visit(part, seen));
            }
        }
    }
}

impl Type {
    fn parts(&self) -> impl Iterator<Item = u32> + '_ {
        self.inner.into_iter().chain(self.fields.iter().map(|field| field.type_oid))
    }

    fn is_users(&self) -> bool {
        self.oid >= USER_OIDS_START && self.extension.is_none()
    }

    /// `None` for a type that is built in, comes with another one (arrays, multiranges), or cannot
    /// be created.
    fn create_statement(&self) -> Option<String> {
        if !self.is_users() || self.is_row_type {
            return None;
        }
        let what = name::qualified(&self.schema, &self.name);
        match self.kind.as_str() {
            "e" => {
                let labels: Vec<_> = self.labels.iter().map(|label| name::literal(label)).collect();
                Some(format!("CREATE TYPE {what} AS ENUM ({})", labels.join(", ")))
            }
            "d" => Some(format!("CREATE DOMAIN {what} AS {}", self.clause.as_deref()?)),
            "r" => Some(format!("CREATE TYPE {what} AS RANGE ({})", self.clause.as_deref()?)),
            "c" => {
                let fields: Vec<_> = self.fields.iter().map(Field::definition).collect();
                Some(format!("CREATE TYPE {what} AS ({})", fields.join(", ")))
            }
            _ => None,
        }
    }

    fn problem(&self, column: &str) -> Option<Problem> {
        let display = name::display(&self.schema, &self.name);
        if let Some(extension) = &self.extension {
            return Some(Problem::warning(
                "column_type",
                format!("column \"{column}\" needs type {display} of extension \"{extension}\""),
                format!("On the target: CREATE EXTENSION {};", name::quoted(extension)),
            ));
        }
        if self.is_reg {
            return Some(Problem::warning(
                "column_type",
                format!("column \"{column}\" has type {display}: its values are sent by name"),
                "What they name must exist on the target under the same name.",
            ));
        }
        if self.checks_left_out {
            return Some(Problem::warning(
                "column_type",
                format!("a check of domain {display} of column \"{column}\" calls user code"),
                "The target's domain is created without that check.",
            ));
        }
        let arrives_with_another = self.is_array || self.kind == "m";
        if self.is_users() && !arrives_with_another && self.create_statement().is_none() {
            return Some(Problem::error(
                "column_type",
                format!("column \"{column}\" has type {display}, which cannot be carried"),
                "Leave it out with trem.exclude_column.",
            ));
        }
        None
    }
}

impl Field {
    fn definition(&self) -> String {
        let collate =
            self.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        format!("{} {}{collate}", name::quoted(&self.name), self.type_name)
    }
}

const TYPES: &str = "
WITH checks AS (
    SELECT c.contypid AS type_oid, c.conname AS name, pg_get_constraintdef(c.oid) AS definition,
           NOT c.convalidated OR EXISTS (
               SELECT FROM pg_depend AS d
               WHERE d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
                 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                 AND d.refobjid >= 16384) AS calls_user_code
    FROM pg_constraint AS c
    WHERE c.contypid = ANY ($1::oid[]) AND c.contype = 'c'
)
SELECT t.oid::bigint, n.nspname AS schema, t.typname AS name, t.typtype AS kind,
       kind.is_array,
       CASE WHEN kind.is_array THEN t.typelem
            WHEN t.typtype = 'd' THEN t.typbasetype
            WHEN t.typtype = 'r' THEN range.rngsubtype
            WHEN t.typtype = 'm' THEN range.rngtypid
       END::bigint AS inner,
       n.nspname = 'pg_catalog' AND t.typname LIKE 'reg%' AS is_reg,
       t.typsend <> 0 AND t.typreceive <> 0 AS has_binary,
       coalesce(row.relkind <> 'c', false) AS is_row_type,
       (SELECT e.extname FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass) AS extension,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object(
               'name', a.attname, 'type_oid', a.atttypid::bigint,
               'type_name', format_type(a.atttypid, a.atttypmod),
               'collation', (SELECT format('%I.%I', cn.nspname, co.collname)
                             FROM pg_collation AS co
                             JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
                             JOIN pg_type AS at ON at.oid = a.atttypid
                             WHERE co.oid = a.attcollation AND co.oid <> at.typcollation)
               ) ORDER BY a.attnum)
           FROM pg_attribute AS a
           WHERE a.attrelid = row.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS fields,
       coalesce((SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder)
                 FROM pg_enum AS e WHERE e.enumtypid = t.oid), '[]') AS labels,
       CASE t.typtype
           WHEN 'd' THEN concat_ws(' ',
               format_type(t.typbasetype, t.typtypmod),
               (SELECT format('COLLATE %I.%I', cn.nspname, co.collname)
                FROM pg_collation AS co
                JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
                JOIN pg_type AS base ON base.oid = t.typbasetype
                WHERE co.oid = t.typcollation AND co.oid <> base.typcollation),
               CASE WHEN t.typnotnull THEN 'NOT NULL' END,
               (SELECT string_agg(format('CONSTRAINT %I %s', c.name, c.definition), ' '
                                  ORDER BY c.name)
                FROM checks AS c WHERE c.type_oid = t.oid AND NOT c.calls_user_code))
           WHEN 'r' THEN CASE WHEN range.portable THEN concat_ws(', ',
               'SUBTYPE = ' || format_type(range.rngsubtype, NULL),
               (SELECT format('SUBTYPE_OPCLASS = %I.%I', ocn.nspname, oc.opcname)
                FROM pg_opclass AS oc JOIN pg_namespace AS ocn ON ocn.oid = oc.opcnamespace
                WHERE oc.oid = range.rngsubopc),
               (SELECT format('COLLATION = %I.%I', cn.nspname, co.collname)
                FROM pg_collation AS co JOIN pg_namespace AS cn ON cn.oid = co.collnamespace
                WHERE co.oid = range.rngcollation),
               (SELECT format('MULTIRANGE_TYPE_NAME = %I.%I', mn.nspname, m.typname)
                FROM pg_type AS m JOIN pg_namespace AS mn ON mn.oid = m.typnamespace
                WHERE m.oid = range.multirange)) END
       END AS clause,
       EXISTS (SELECT FROM checks AS c WHERE c.type_oid = t.oid AND c.calls_user_code)
           AS checks_left_out
FROM pg_type AS t
JOIN pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_class AS row ON row.oid = t.typrelid AND t.typtype = 'c'
CROSS JOIN LATERAL (SELECT t.typcategory = 'A' AND t.typelem <> 0 AS is_array) AS kind
LEFT JOIN LATERAL (
    SELECT r.rngtypid, r.rngsubtype, r.rngsubopc, r.rngcollation,
           (to_jsonb(r)->>'rngmultitypid')::oid AS multirange,
           -- Neither user code nor a user's operator class decides what its values mean.
           r.rngcanonical::oid < 16384 AND r.rngsubopc < 16384 AS portable
    FROM pg_range AS r
) AS range ON t.oid IN (range.rngtypid, range.multirange)
WHERE t.oid = ANY ($1::oid[])";

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::Types;

    /// OIDs mean something only where they were given: what holds them travels as text.
    #[pg_test]
    fn rows_with_oids_of_users_types_are_not_portable() {
        Spi::run(
            "CREATE TYPE mood AS ENUM ('a'); CREATE TYPE pair AS (a int, b text);
             CREATE TYPE moody AS (a int, m mood); CREATE DOMAIN moods AS mood[];
             CREATE DOMAIN small AS int CHECK (VALUE < 9);
             CREATE TYPE span AS RANGE (SUBTYPE = mood);
             CREATE TYPE pairs AS RANGE (SUBTYPE = pair)",
        )
        .expect("types are made");
        for (name, portable) in [
            ("int", true),
            ("int[]", true),
            ("numeric(3,1)", true),
            ("jsonb", true),
            ("int4range", true),
            ("int4range[]", true),
            ("tstzmultirange", true),
            ("mood", true),
            ("mood[]", false),
            ("moods", false),
            ("small", true),
            ("small[]", false),
            ("pair", true),
            ("pair[]", false),
            ("moody", false),
            ("span", true),
            ("pairs", true),
            ("regclass", false),
            ("regtype[]", false),
        ] {
            let oid = Spi::get_one::<pg_sys::Oid>(&format!("SELECT '{name}'::regtype::oid"));
            let oid = oid.expect("the type is found").expect("it has an OID").to_u32();
            let types = Types::load([oid].into_iter()).expect("types load");
            assert_eq!(types.is_portable(oid), portable, "{name}");
        }
    }
}
