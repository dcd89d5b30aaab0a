//! The limits of style, checked: what nothing checks rots.
//!
//! Sizes, who may import whom, where `unsafe` may be, names that say nothing, and what product code
//! never does. What exceeds a limit on purpose stands in [`EXCEPTIONS`] with its reason and its
//! measure, which may only shrink.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;
const INDENT_SPACES_MAX: usize = 6 * 4;
const PARAMETERS_MAX: usize = 6;
const COLUMNS_MAX: usize = 100;

/// Rule, place, measure allowed, reason.
const EXCEPTIONS: &[(&str, &str, usize, &str)] =
    &[("names", "trem_applier/src/tls/certificate.rs", 1, "X.509 calls it the common name")];

const MEANINGLESS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager"];

/// `(files below, first segments of paths they may not use, why)`. `crate::x` is meant by `x` for
/// modules of the same crate.
const FORBIDDEN_IMPORTS: &[(&str, &[&str], &str)] = &[
    (
        "trem_wire/src/",
        &["trem", "trem_applier", "trem_tests", "pgrx", "tokio", "tokio_postgres"],
        "trem_wire imports nothing of ours, and does no I/O",
    ),
    ("trem_ext/src/output_plugin", &["crate::api"], "the output plugin never reaches api"),
    ("trem_ext/src/catalog", &["crate::api"], "api imports catalog, never the other way round"),
    (
        "trem_ext/src/pg",
        &["crate::api", "crate::catalog", "crate::output_plugin"],
        "pg is the lowest layer",
    ),
    ("trem_applier/src/source", &["crate::target"], "source and target never import each other"),
    ("trem_applier/src/target", &["crate::source"], "source and target never import each other"),
    (
        "trem_applier/src/apply",
        &["tokio", "tokio_postgres", "postgres_protocol", "std::time", "std::fs", "std::net"],
        "apply has no I/O, no clock and nothing async",
    ),
];

/// The only modules of `crate` that `apply` may name.
const APPLY_MAY_USE: &[&str] = &["apply"];

const UNSAFE_ALLOWED: &[&str] = &["trem_ext/src/pg", "trem_ext/src/output_plugin"];

/// One source file, parsed.
struct Source {
    /// From the checkout's root, with `/`.
    path: String,
    text: String,
    tree: syn::File,
}

/// One thing that exceeds a limit or breaks a rule.
struct Finding {
    rule: &'static str,
    place: String,
    measure: usize,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is below the checkout")
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in ["trem_wire", "trem_ext", "trem_applier", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 10, "the sources were not found below {}", root().display());
    files.into_iter().map(parse).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn parse(file: PathBuf) -> Source {
    let text = std::fs::read_to_string(&file).expect("a readable source file");
    let tree = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let path = file.strip_prefix(root()).expect("below the root").display().to_string();
    Source { path, text, tree }
}

impl Source {
    /// Code that ships: not the tests crate, nor the tests of another.
    fn is_product(&self) -> bool {
        let is_tests = self.path.starts_with("tests/") || self.path.ends_with("/tests.rs");
        !is_tests && self.path.contains("/src/")
    }

    fn finding(&self, rule: &'static str, measure: usize, text: impl Into<String>) -> Finding {
        Finding { rule, place: self.path.clone(), measure, text: text.into() }
    }
}

/// Fails with everything that was found and is not excepted, and with exceptions nobody needs.
fn judge(rule: &'static str, findings: Vec<Finding>) {
    let mut report = String::new();
    let mut used = BTreeSet::new();
    for finding in findings {
        let allowed =
            EXCEPTIONS.iter().find(|(r, place, ..)| *r == rule && *place == finding.place);
        match allowed {
            Some((_, place, measure, _)) if finding.measure <= *measure => {
                used.insert(*place);
            }
            _ => {
                writeln!(report, "{}: {} ({rule})", finding.place, finding.text).expect("a string")
            }
        }
    }
    for (_, place, ..) in
        EXCEPTIONS.iter().filter(|(r, place, ..)| *r == rule && !used.contains(place))
    {
        writeln!(report, "{place}: the exception for {rule} is not needed").expect("a string");
    }
    assert!(report.is_empty(), "\n{report}");
}

/// Judges what `check` finds in each file.
fn judge_each(rule: &'static str, check: impl Fn(&Source, &mut Vec<Finding>)) {
    let mut findings = Vec::new();
    for source in sources() {
        check(&source, &mut findings);
    }
    assert!(findings.iter().all(|finding| finding.rule == rule));
    judge(rule, findings);
}

#[test]
fn no_file_is_longer_than_700_lines() {
    judge_each("file", |source, findings| {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.push(source.finding("file", lines, format!("{lines} lines")));
        }
    });
}

#[test]
fn no_line_is_wider_than_100_columns() {
    judge_each("columns", |source, findings| {
        for (at, line) in source.text.lines().enumerate() {
            // A row of a table cannot be broken.
            let is_table = line.starts_with("//! |") || line.trim_start().starts_with("/// |");
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !is_table {
                let text = format!("line {} has {columns} columns", at + 1);
                findings.push(source.finding("columns", columns, text));
            }
        }
    });
}

#[test]
fn no_line_is_indented_more_than_six_levels() {
    judge_each("indent", |source, findings| {
        let inside_literals = lines_inside_literals(&source.text);
        for (at, line) in source.text.lines().enumerate() {
            let spaces = line.len() - line.trim_start_matches(' ').len();
            if spaces > INDENT_SPACES_MAX && !inside_literals.contains(&(at + 1)) {
                let text = format!("line {} is indented by {spaces}", at + 1);
                findings.push(source.finding("indent", spaces, text));
            }
        }
    });
}

/// Numbers of the lines that start inside a string: their spaces are data.
fn lines_inside_literals(text: &str) -> BTreeSet<usize> {
    fn visit(tokens: TokenStream, lines: &mut BTreeSet<usize>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => visit(group.stream(), lines),
                TokenTree::Literal(literal) => {
                    let span = literal.span();
                    lines.extend(span.start().line + 1..=span.end().line);
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
    let mut lines = BTreeSet::new();
    visit(text.parse().expect("it was parsed before"), &mut lines);
    lines
}

/// Calls `check` with name, signature and line count of every function.
struct Functions<F: FnMut(&syn::Signature, usize)> {
    check: F,
}

fn line_count(node: &impl Spanned) -> usize {
    node.span().end().line - node.span().start().line + 1
}

impl<'ast, F: FnMut(&syn::Signature, usize)> Visit<'ast> for Functions<F> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        // From the `fn` on: documentation above it is not length.
        let lines = item.block.span().end().line - item.sig.span().start().line + 1;
        (self.check)(&item.sig, lines);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let lines = item.block.span().end().line - item.sig.span().start().line + 1;
        (self.check)(&item.sig, lines);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        (self.check)(&item.sig, item.default.as_ref().map_or(1, line_count));
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn no_function_is_longer_than_70_lines() {
    judge_each("function", |source, findings| {
        let check = |signature: &syn::Signature, lines| {
            if lines > FUNCTION_LINES_MAX {
                let mut finding = source.finding("function", lines, format!("{lines} lines"));
                finding.place = format!("{}::{}", source.path, signature.ident);
                findings.push(finding);
            }
        };
        Functions { check }.visit_file(&source.tree);
    });
}

#[test]
fn no_function_has_more_than_six_parameters() {
    judge_each("parameters", |source, findings| {
        let check = |signature: &syn::Signature, _| {
            let typed = |input: &&syn::FnArg| matches!(input, syn::FnArg::Typed(_));
            let count = signature.inputs.iter().filter(typed).count();
            // PostgreSQL decides what its callbacks take.
            if count > PARAMETERS_MAX && signature.abi.is_none() {
                let mut finding =
                    source.finding("parameters", count, format!("{count} parameters"));
                finding.place = format!("{}::{}", source.path, signature.ident);
                findings.push(finding);
            }
        };
        Functions { check }.visit_file(&source.tree);
    });
}

/// Collects every path as written, `use` trees spelled out.
#[derive(Default)]
struct Paths {
    found: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        fn spell(tree: &syn::UseTree, before: &str, found: &mut BTreeSet<String>) {
            match tree {
                syn::UseTree::Path(path) => {
                    spell(&path.tree, &format!("{before}{}::", path.ident), found);
                }
                syn::UseTree::Group(group) => {
                    group.items.iter().for_each(|tree| spell(tree, before, found));
                }
                syn::UseTree::Name(name) => drop(found.insert(format!("{before}{}", name.ident))),
                syn::UseTree::Rename(name) => drop(found.insert(format!("{before}{}", name.ident))),
                syn::UseTree::Glob(_) => drop(found.insert(before.to_owned())),
            }
        }
        spell(&item.tree, "", &mut self.found);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.found.insert(segments.join("::"));
        visit::visit_path(self, path);
    }
}

/// The paths a file names, those of its own crate as `crate::…`.
fn paths(source: &Source) -> BTreeSet<String> {
    let mut paths = Paths::default();
    paths.visit_file(&source.tree);
    let is_top_level = source.path.matches('/').count() == 2;
    let absolute = |path: String| match path.strip_prefix("super::") {
        Some(rest) if is_top_level => format!("crate::{rest}"),
        _ => path,
    };
    paths.found.into_iter().map(absolute).collect()
}

fn names(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn modules_import_only_what_their_layer_may() {
    judge_each("imports", |source, findings| {
        for (below, forbidden, why) in FORBIDDEN_IMPORTS {
            if !source.path.starts_with(below) {
                continue;
            }
            for path in paths(source) {
                if forbidden.iter().any(|module| names(&path, module)) {
                    findings.push(source.finding("imports", 1, format!("names {path}: {why}")));
                }
            }
        }
    });
}

#[test]
fn apply_imports_nothing_of_ours_but_the_wire() {
    judge_each("imports of apply", |source, findings| {
        if !source.path.starts_with("trem_applier/src/apply") {
            return;
        }
        for path in paths(source) {
            let Some(rest) = path.strip_prefix("crate::") else { continue };
            if !APPLY_MAY_USE.iter().any(|module| names(rest, module)) {
                findings.push(source.finding("imports of apply", 1, format!("names {path}")));
            }
        }
    });
}

#[test]
fn unsafe_code_is_only_in_pg_and_in_the_output_plugin() {
    fn first_unsafe(tokens: TokenStream) -> Option<usize> {
        tokens.into_iter().find_map(|token| match token {
            TokenTree::Group(group) => first_unsafe(group.stream()),
            TokenTree::Ident(ident) if ident == "unsafe" => Some(ident.span().start().line),
            _ => None,
        })
    }
    judge_each("unsafe", |source, findings| {
        if UNSAFE_ALLOWED.iter().any(|below| source.path.starts_with(below)) {
            return;
        }
        if let Some(line) = first_unsafe(source.text.parse().expect("it was parsed before")) {
            findings.push(source.finding("unsafe", 1, format!("line {line} is unsafe")));
        }
    });
}

/// Names that a file gives to things.
#[derive(Default)]
struct Names {
    found: Vec<String>,
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let ident = match item {
            syn::Item::Const(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Mod(item) => Some(&item.ident),
            syn::Item::Static(item) => Some(&item.ident),
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            _ => None,
        };
        self.found.extend(ident.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.found.push(signature.ident.to_string());
        visit::visit_signature(self, signature);
    }
}

/// `SlotManager`, `slot_manager` and `SLOT_MANAGER` are the words `slot` and `manager`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && before_is_lower) {
            words.push(String::new());
        }
        before_is_lower = letter.is_lowercase();
        if letter != '_' {
            words.last_mut().expect("never empty").extend(letter.to_lowercase());
        }
    }
    words
}

#[test]
fn names_say_what_a_thing_is() {
    judge_each("names", |source, findings| {
        let mut names = Names::default();
        names.visit_file(&source.tree);
        names.found.extend(source.path.trim_end_matches(".rs").split('/').map(str::to_owned));
        for name in names.found {
            let means_nothing = |word: &String| MEANINGLESS.contains(&word.as_str());
            if name.ends_with("_impl") || words(&name).iter().any(means_nothing) {
                findings.push(source.finding("names", 1, format!("\"{name}\" says nothing")));
            }
        }
    });
}

/// What product code never does, found outside `#[cfg(test)]`.
#[derive(Default)]
struct Careless {
    found: Vec<(usize, String)>,
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string(),
            _ => return false,
        };
        text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test")
            && !text.contains("not")
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Careless {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "unwrap" || call.method == "unwrap_err" {
            self.found.push((call.method.span().start().line, format!(".{}()", call.method)));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        let name = invoked.path.segments.last().map(|segment| segment.ident.to_string());
        let name = name.unwrap_or_default();
        if ["todo", "unimplemented", "dbg", "panic"].contains(&name.as_str()) {
            self.found.push((invoked.path.span().start().line, format!("{name}!")));
        }
        visit::visit_macro(self, invoked);
    }
}

#[test]
fn product_code_never_unwraps_panics_or_leaves_things_to_do() {
    judge_each("careless", |source, findings| {
        if !source.is_product() {
            return;
        }
        let mut careless = Careless::default();
        careless.visit_file(&source.tree);
        for (line, what) in careless.found {
            findings.push(source.finding("careless", 1, format!("line {line}: {what}")));
        }
    });
}

#[test]
fn no_test_is_ignored() {
    struct Ignored(bool);
    impl<'ast> Visit<'ast> for Ignored {
        fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
            self.0 |= attribute.path().is_ident("ignore");
        }
    }
    judge_each("ignored", |source, findings| {
        let mut ignored = Ignored(false);
        ignored.visit_file(&source.tree);
        if ignored.0 {
            findings.push(source.finding("ignored", 1, "has an ignored test"));
        }
    });
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    judge_each("header", |source, findings| {
        if !source.text.starts_with("//!") {
            findings.push(source.finding("header", 1, "has no documentation at its head"));
        }
    });
}

#[test]
fn names_are_taken_apart_into_words() {
    assert_eq!(words("SlotManager"), ["slot", "manager"]);
    assert_eq!(words("READ_UTILS"), ["read", "utils"]);
    assert_eq!(words("decode_impl"), ["decode", "impl"]);
    assert_eq!(words("simple"), ["simple"]);
}
