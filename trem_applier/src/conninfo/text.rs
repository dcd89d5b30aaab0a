//! The two ways to write a connection string, `key=value ...` and `postgresql://...`, read as libpq
//! reads them (fe-connect.c, conninfo_parse and conninfo_uri_parse) into name and value.
//!
//! Knows no option by name but the ones that a URI has places for. No message repeats the text:
//! it may hold a password.

use crate::error::{Error, Kind, Result};

/// Options in the order written; of the same name twice, the last one counts.
pub(super) type Pairs = Vec<(String, String)>;

pub(super) fn parse(text: &str) -> Result<Pairs> {
    let text = text.trim();
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::Argument, message).hint(
        "A connection string looks like \"host=localhost port=5432 dbname=shop user=trem\" or \
         \"postgresql://trem@localhost:5432/shop\".",
    )
}

fn parse_pairs(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=').ok_or_else(|| {
            refused(format!(
                "missing \"=\" after word {} of the connection string",
                pairs.len() + 1
            ))
        })?;
        let (value, after) = take_value(after.trim_start())?;
        pairs.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value up to the next space, or in single quotes; a backslash takes the next character as is.
fn take_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    match quoted {
        true => Err(refused("unterminated quoted value in the connection string")),
        false => Ok((value, "")),
    }
}

/// `[user[:password]@][host[:port],...][/dbname][?name=value&...]`
fn parse_uri(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let (before, query) = match text.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (text, None),
    };
    let (authority, dbname) = match before.split_once('/') {
        Some((authority, dbname)) => (authority, dbname),
        None => (before, ""),
    };
    let hosts = match authority.split_once('@') {
        Some((login, hosts)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            push(&mut pairs, "user", decode(user)?);
            push(&mut pairs, "password", decode(password)?);
            hosts
        }
        None => authority,
    };
    parse_hosts(&mut pairs, hosts)?;
    push(&mut pairs, "dbname", decode(dbname)?);
    for part in query.unwrap_or("").split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| refused("missing \"=\" after \"?\" or \"&\" in the connection URI"))?;
        match (decode(name)?.as_str(), decode(value)?) {
            ("ssl", value) if value == "true" => push(&mut pairs, "sslmode", "require".into()),
            (name, value) => pairs.push((name.to_owned(), value)),
        }
    }
    Ok(pairs)
}

fn parse_hosts(pairs: &mut Pairs, text: &str) -> Result<()> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = match one.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(|| {
                    refused("missing \"]\" after the IPv6 address in the connection URI")
                })?;
                (host, after.strip_prefix(':').unwrap_or(after))
            }
            None => one.split_once(':').unwrap_or((one, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if ports.iter().any(|port| !port.is_empty()) {
        push(pairs, "port", ports.join(","));
    }
    push(pairs, "host", hosts.join(","));
    Ok(())
}

fn push(pairs: &mut Pairs, name: &str, value: String) {
    if !value.is_empty() {
        pairs.push((name.to_owned(), value));
    }
}

fn decode(text: &str) -> Result<String> {
    let invalid = || refused("invalid percent-encoding in the connection URI");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).map(|(high, low)| high * 16 + low).ok_or_else(invalid)?;
        match u8::try_from(value) {
            Ok(0) | Err(_) => return Err(invalid()),
            Ok(byte) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, &str)]) {
        let pairs = parse(text).expect("parses");
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, expected);
    }

    #[test]
    fn reads_pairs_with_quotes_and_backslashes() {
        check("", &[]);
        check(" host=a  port = 5 ", &[("host", "a"), ("port", "5")]);
        check(r"password='a\'b c\\' user=x\ y", &[("password", r"a'b c\"), ("user", "x y")]);
        check("host=/tmp/é dbname=''", &[("host", "/tmp/é"), ("dbname", "")]);
        check("host= dbname=b", &[("host", "dbname=b")]);
    }

    #[test]
    fn reads_every_part_of_a_uri() {
        check("postgresql://", &[]);
        check("postgres:///shop", &[("dbname", "shop")]);
        check(
            "postgresql://me:s%40%3Ae@db:5433/sh%20op?connect_timeout=3&ssl=true",
            &[
                ("user", "me"),
                ("password", "s@:e"),
                ("port", "5433"),
                ("host", "db"),
                ("dbname", "sh op"),
                ("connect_timeout", "3"),
                ("sslmode", "require"),
            ],
        );
        check("postgresql://%2Ftmp%2Fa/b", &[("host", "/tmp/a"), ("dbname", "b")]);
        check("postgresql:///b?host=/tmp/a", &[("dbname", "b"), ("host", "/tmp/a")]);
        check("postgresql://[::1]:54/b", &[("port", "54"), ("host", "::1"), ("dbname", "b")]);
        check("postgresql://a:1,b/", &[("port", "1,"), ("host", "a,b")]);
    }

    #[test]
    fn refuses_what_libpq_refuses_and_repeats_nothing_of_it() {
        for text in [
            "secret",
            "host=a secret",
            "password='secret",
            "postgresql://u:secret%4@h",
            "postgresql://u:secret%00@h",
            "postgresql://[::1/secret",
            "postgresql://h/?secret",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.kind(), Kind::Argument);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
