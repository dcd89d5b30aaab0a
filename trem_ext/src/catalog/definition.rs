//! The published document ([`trem_wire::definition`]) from the plan.

use std::collections::{BTreeMap, BTreeSet};

use trem_wire::definition::{
    DefinedColumn, DefinedInput, DefinedLeaf, DefinedRowFormat, DefinedShape, DefinedTable,
    Definition,
};
use trem_wire::Lsn;

use super::draft::Draft;
use super::options;
use super::plan::Plan;
use super::shape::Shape;
use super::statement::{self, IndexNames};
use super::table::{Column, Leaf};
use super::types::Types;
use crate::error::Error;
use crate::pg;

/// Without `published_lsn`, which only publishing knows: two definitions that are the same compare
/// equal.
pub(crate) fn build(draft: &Draft, plan: &Plan, version: i64) -> Result<Definition, Error> {
    let hides_values = plan.shapes.iter().any(Shape::hides_values);
    let options = options::effective(&draft.task.options, hides_values)?;
    let names = IndexNames::new(&plan.shapes);
    let used = plan.shapes.iter().flat_map(Shape::types);
    Ok(Definition {
        task: draft.task.name.clone(),
        task_id: draft.task.task_id.clone(),
        definition_version: version,
        published_lsn: Lsn::INVALID,
        mode: draft.task.mode,
        types: plan.types.defined(used),
        tables: plan
            .shapes
            .iter()
            .map(|shape| DefinedTable {
                index_statements: statement::indexes(shape, options.indexes, &names).statements,
                ..table(shape, &draft.task.name, &plan.types)
            })
            .collect(),
        options,
    })
}

/// The view in `trem_read` through which a leaf is read.
pub(crate) fn view_name(task: &str, leaf: &Leaf) -> String {
    format!("{task}_{}", leaf.oid)
}

fn table(shape: &Shape, task: &str, types: &Types) -> DefinedTable {
    let source = &shape.table;
    let portable = shape.types().all(|type_oid| types.is_portable(type_oid));
    DefinedTable {
        oid: source.oid,
        source_schema: source.schema.clone(),
        source_name: source.name.clone(),
        target_schema: shape.target_schema.clone(),
        target_name: shape.target_name.clone(),
        row_format: if portable { DefinedRowFormat::Binary } else { DefinedRowFormat::Text },
        load_generation: shape.load_generation,
        changes_from: Lsn::INVALID,
        keyless: source.key_attnums.is_none(),
        columns: shape
            .columns
            .iter()
            .map(|column| DefinedColumn {
                attnum: column.attnum(),
                source_name: column.source_name().to_owned(),
                name: column.name.clone(),
                type_oid: column.output.type_oid,
                type_modifier: column.output.type_modifier,
                type_name: column.output.type_name.clone(),
                not_null: column.output.not_null,
                key: column.key,
                expression: column.computed.as_ref().map(|computed| computed.expression.clone()),
            })
            .collect(),
        leaves: source
            .leaves
            .iter()
            .map(|leaf| DefinedLeaf {
                oid: leaf.oid,
                schema: leaf.schema.clone(),
                name: leaf.name.clone(),
                attribute_count: leaf.attribute_count,
                renumbered: leaf.renumbered.clone(),
                view: view_name(task, leaf),
            })
            .collect(),
        inputs: inputs(shape),
        shapes: type_shapes(shape),
        create_statement: statement::create_table(shape),
        filter: shape.filter.as_ref().map(|filter| filter.expression.clone()),
        index_statements: Vec::new(),
    }
}

fn inputs(shape: &Shape) -> Vec<DefinedInput> {
    let columns = shape.table.columns.iter().filter(|_| shape.is_computed());
    let input = |of: &Column| DefinedInput {
        attnum: of.attnum,
        name: of.name.clone(),
        type_oid: of.type_oid,
        type_modifier: of.type_modifier,
    };
    columns.map(input).collect()
}

/// Of all columns that the rows have, or that rules may read.
fn type_shapes(shape: &Shape) -> Vec<DefinedShape> {
    let source = shape.table.columns.iter().map(|column| column.type_oid);
    let used: BTreeSet<u32> = source.chain(shape.types()).collect();
    let found = used.into_iter().filter_map(pg::type_shapes).flatten();
    let by_oid: BTreeMap<u32, DefinedShape> = found.map(|of| (of.type_oid, of)).collect();
    by_oid.into_values().collect()
}
