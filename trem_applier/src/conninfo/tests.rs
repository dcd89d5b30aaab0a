//! Connection strings as people and libpq write them.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;

fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse_with(text, &|_| None).expect("parses")
}

fn refusal(text: &str) -> String {
    ConnInfo::parse_with(text, &|_| None).expect_err("is refused").to_string()
}

fn tcp(name: &str, port: u16) -> Host {
    Host { address: Address::Tcp { name: name.to_owned(), dial: None }, port }
}

#[test]
fn a_string_of_pairs_and_a_uri_say_the_same() {
    let pairs = parse("host=db.example port=5433 dbname=shop user=me password=s3 sslmode=require");
    let uri = parse("postgresql://me:s3@db.example:5433/shop?sslmode=require");
    for info in [pairs, uri] {
        assert_eq!(info.hosts, [tcp("db.example", 5433)]);
        assert_eq!((info.user(), info.dbname()), ("me", "shop"));
        assert_eq!(info.password_for(&info.hosts[0]).as_deref(), Some("s3"));
        assert_eq!(info.tls.mode, SslMode::Require);
    }
}

#[test]
fn a_host_that_starts_with_a_slash_is_a_socket_folder() {
    for text in ["host=/tmp/a", "postgresql://%2Ftmp%2Fa", "postgresql:///?host=/tmp/a"] {
        let info = parse(text);
        assert_eq!(info.hosts, [Host { address: Address::Unix("/tmp/a".into()), port: 5432 }]);
        assert_eq!(info.hosts[0].to_string(), "socket \"/tmp/a/.s.PGSQL.5432\"");
    }
}

#[test]
fn several_hosts_share_one_port_or_have_one_each() {
    assert_eq!(parse("host=a,b port=7").hosts, [tcp("a", 7), tcp("b", 7)]);
    assert_eq!(parse("postgresql://a:1,b/x").hosts, [tcp("a", 1), tcp("b", 5432)]);
    assert!(refusal("host=a,b port=1,2,3").contains("differ in number"));
    let with_address = parse("host=a hostaddr=127.0.0.1");
    let dial = Some("127.0.0.1".parse().expect("an address"));
    assert_eq!(with_address.hosts[0].address, Address::Tcp { name: "a".into(), dial });
}

#[test]
fn the_environment_stands_in_for_what_is_absent() {
    let env = |name: &str| {
        let value = match name {
            "PGHOST" => "envhost",
            "PGPORT" => "6000",
            "PGUSER" => "envuser",
            "PGPASSWORD" => "envpassword",
            "PGSSLMODE" => "disable",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let info = ConnInfo::parse_with("port=6001 dbname=", &env).expect("parses");
    assert_eq!(info.hosts, [tcp("envhost", 6001)]);
    assert_eq!((info.user(), info.dbname()), ("envuser", "envuser"));
    assert_eq!(info.password_for(&info.hosts[0]).as_deref(), Some("envpassword"));
    assert_eq!(info.tls.mode, SslMode::Disable);
}

#[test]
fn neither_display_nor_debug_shows_the_password() {
    let info = parse("host=h user=u dbname=d password=s3cret");
    assert_eq!(info.display(), "database \"d\" on host \"h\", port 5432 as user \"u\"");
    assert!(!format!("{info:?}").contains("s3cret"));
}

#[test]
fn numbers_and_closed_sets_are_checked() {
    assert_eq!(parse("connect_timeout=3").connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(parse("connect_timeout=0").connect_timeout, None);
    assert_eq!(parse("keepalives=0").keepalive, None);
    assert_eq!(parse("channel_binding=require").channel_binding, ChannelBinding::Require);
    assert_eq!(parse("target_session_attrs=read-write").session_attrs, SessionAttrs::ReadWrite);
    assert!(refusal("port=0").contains("invalid port"));
    assert!(refusal("port=70000").contains("invalid port"));
    assert!(refusal("connect_timeout=soon").contains("invalid value"));
    assert!(refusal("sslmode=maybe").contains("invalid value"));
    assert!(refusal("sslcrl=/a").contains("\"sslcrl\" is not supported"));
    assert!(refusal("sslrootcert=system sslmode=require").contains("verify-full"));
}

#[test]
fn an_endpoint_refers_to_its_password_and_ignores_the_environment() {
    let env = |name: &str| match name {
        "SHOP_PASSWORD" => Some("from env".to_owned()),
        "PGHOST" | "PGPASSWORD" => Some("must not be used".to_owned()),
        _ => None,
    };
    let endpoint = |options: serde_json::Value| {
        let json = json!({"name": "dw", "kind": "postgresql", "dbname": "shop", "host": "h",
            "port": 5433, "username": "u", "password": null, "options": options});
        endpoint::parse(&json, &env)
    };
    let info = endpoint(json!({"password_env": "SHOP_PASSWORD", "sslmode": "verify-ca",
        "connect_timeout": 4}))
    .expect("parses");
    assert_eq!(info.hosts, [tcp("h", 5433)]);
    assert_eq!(info.password_for(&info.hosts[0]).as_deref(), Some("from env"));
    assert_eq!(info.tls.mode, SslMode::VerifyCa);
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(4)));

    let info = endpoint(json!({"passfile": "/nonexistent"})).expect("parses");
    assert_eq!(info.password_for(&info.hosts[0]), None);
    let error = endpoint(json!({"password_env": "NOT_SET"})).expect_err("is refused");
    assert_eq!(error.to_string(), "endpoint \"dw\": environment variable \"NOT_SET\" is not set");
    let error = endpoint(json!({"password_file": "/nonexistent"})).expect_err("is refused");
    assert!(error.to_string().contains("cannot read password file"), "{error}");
}

#[test]
fn a_name_is_set_without_touching_the_rest() {
    let info = parse("host=h").with_application_name("trem:shop:apply");
    assert_eq!(info.application_name, "trem:shop:apply");
    assert_eq!(info.hosts[0].socket_path(Path::new("/a")), Path::new("/a/.s.PGSQL.5432"));
}
