//! The plugin's options, as START_REPLICATION and the SQL functions pass them: a closed set.

use std::str::FromStr;

use pgrx::{pg_sys, PgList};
use trem_wire::compress::Compression;
use trem_wire::{PROTO_VERSION, PROTO_VERSION_MIN};

use super::error::StreamError;
use crate::pg;

const TASK: &str = "task";
const DEFINITION_VERSION: &str = "definition_version";
const PROTO: &str = "proto_version";
const COMPRESSION: &str = "compression";

pub(crate) const NAMES: [&str; 4] = [TASK, DEFINITION_VERSION, PROTO, COMPRESSION];

pub(crate) struct Options {
    pub(crate) task: String,
    pub(crate) definition_version: i64,
    pub(crate) compression: Compression,
}

impl Options {
    /// The options of a stream that is about to start.
    ///
    /// # Safety
    /// `context` is the decoding context of a startup callback.
    pub(crate) unsafe fn of(
        context: *mut pg_sys::LogicalDecodingContext,
    ) -> Result<Options, StreamError> {
        // SAFETY: the server keeps the options as a list of DefElem.
        let list = unsafe { PgList::<pg_sys::DefElem>::from_pg((*context).output_plugin_options) };
        Options::parse(list.iter_ptr().map(|option| {
            // SAFETY: elements of the list are valid; both strings end with a zero byte.
            unsafe { (pg::utf8((*option).defname), pg::utf8(pg_sys::defGetString(option))) }
        }))
    }

    fn parse(given: impl Iterator<Item = (String, String)>) -> Result<Options, StreamError> {
        let (mut task, mut definition_version) = (None, None);
        let mut compression = Compression::None;
        for (name, value) in given {
            match name.as_str() {
                TASK => task = Some(value),
                DEFINITION_VERSION => {
                    definition_version = Some(parsed(DEFINITION_VERSION, &value, "a number")?);
                }
                PROTO => {
                    let known = PROTO_VERSION_MIN..=PROTO_VERSION;
                    let expected = match PROTO_VERSION_MIN {
                        PROTO_VERSION => PROTO_VERSION.to_string(),
                        oldest => format!("{oldest} to {PROTO_VERSION}"),
                    };
                    if !known.contains(&parsed::<u32>(PROTO, &value, &expected)?) {
                        return Err(invalid(PROTO, &value, &expected));
                    }
                }
                COMPRESSION => {
                    compression = match value.as_str() {
                        "zstd" => Compression::Zstd,
                        "none" => Compression::None,
                        _ => return Err(invalid(COMPRESSION, &value, "zstd or none")),
                    };
                }
                _ => return Err(StreamError::OptionUnknown { name }),
            }
        }
        Ok(Options {
            task: task.ok_or(StreamError::OptionMissing { name: TASK })?,
            definition_version: definition_version
                .ok_or(StreamError::OptionMissing { name: DEFINITION_VERSION })?,
            compression,
        })
    }
}

fn parsed<T: FromStr>(name: &'static str, value: &str, expected: &str) -> Result<T, StreamError> {
    value.parse().map_err(|_| invalid(name, value, expected))
}

fn invalid(name: &'static str, value: &str, expected: &str) -> StreamError {
    StreamError::OptionInvalid { name, value: value.to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Options, StreamError> {
        Options::parse(given.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn task_and_version_are_enough() {
        let options = parse(&[("task", "a"), ("definition_version", "7")]).expect("valid");
        assert_eq!((options.task.as_str(), options.definition_version), ("a", 7));
        assert_eq!(options.compression, Compression::None);
    }

    #[test]
    fn every_name_is_known_and_no_other() {
        for name in NAMES {
            assert!(!matches!(parse(&[(name, "")]), Err(StreamError::OptionUnknown { .. })));
        }
        assert!(matches!(parse(&[("Task", "a")]), Err(StreamError::OptionUnknown { .. })));
    }
}
