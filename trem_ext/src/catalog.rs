//! What the SQL functions read from PostgreSQL's catalog and read and write in TREM's tables.
//!
//! From the draft to what is published: [`draft`] reads a task's tables and rules, [`plan`] expands
//! and applies them (and finds what is wrong), [`definition`] makes the document that plugin and
//! applier read, [`publish`] stores it and makes the views. A new rule comes in by [`rule`];
//! [`compose`] makes one expression of the rules about a column, [`expression`] holds it against
//! the live table. [`access`] says who may do what, [`applier`] what an applier may have. Every
//! statement goes through [`spi`].

pub(crate) mod access;
pub(crate) mod applier;
pub(crate) mod check;
mod compose;
pub(crate) mod count;
pub(crate) mod ddl;
pub(crate) mod definition;
pub(crate) mod draft;
pub(crate) mod endpoint;
pub(crate) mod environment;
pub(crate) mod expression;
pub(crate) mod items;
mod lock;
pub(crate) mod name;
pub(crate) mod note;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod preview;
pub(crate) mod problem;
pub(crate) mod publish;
pub(crate) mod rule;
pub(crate) mod shape;
pub(crate) mod slots;
pub(crate) mod spi;
mod stamp;
pub(crate) mod statement;
pub(crate) mod table;
pub(crate) mod types;
pub(crate) mod unseen;
pub(crate) mod view;
