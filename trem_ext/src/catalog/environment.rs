//! The server side of `check_task`: settings, slots, and the role the applier connects as.

use serde::Deserialize;
use trem_wire::{slot_name, PLUGIN};

use super::draft::Task;
use super::problem::Problem;
use super::{endpoint, name, spi};
use crate::error::Error;

#[derive(Deserialize)]
struct Server {
    wal_level: String,
    slots: i64,
    slots_max: i64,
    own_slot: bool,
    /// The database that already has a slot of this name: they are the server's, not a database's.
    foreign_slot: Option<String>,
    senders: i64,
    senders_max: i64,
    /// `None`: this minor release has no such setting and loads any plugin.
    plugins: Option<String>,
    in_recovery: bool,
    dbname: String,
    encoding: String,
}

const SERVER: &str = "
    SELECT current_setting('wal_level') AS wal_level,
           (SELECT count(*) FROM pg_replication_slots) AS slots,
           current_setting('max_replication_slots')::bigint AS slots_max,
           EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1
                     AND database = current_database()) AS own_slot,
           (SELECT database FROM pg_replication_slots WHERE slot_name = $1
            AND database <> current_database()) AS foreign_slot,
           (SELECT count(*) FROM pg_stat_get_wal_senders()) AS senders,
           current_setting('max_wal_senders')::bigint AS senders_max,
           current_setting('output_plugin_libraries', true) AS plugins,
           pg_is_in_recovery() AS in_recovery, current_database() AS dbname,
           getdatabaseencoding() AS encoding";

#[derive(Deserialize)]
struct Role {
    login: bool,
    replication: bool,
    superuser: bool,
    connects: bool,
}

const ROLE: &str = "
    SELECT r.rolcanlogin AS login, r.rolreplication AS replication, r.rolsuper AS superuser,
           has_database_privilege(r.oid, current_database(), 'CONNECT') AS connects
    FROM pg_roles AS r WHERE r.rolname = $1";

pub(crate) fn check(task: &Task, problems: &mut Vec<Problem>) -> Result<(), Error> {
    let slot = slot_name(&task.name);
    let Some(server) = spi::row::<Server>(SERVER, &[slot.as_str().into()])? else {
        return Err(Error::Catalog("no answer about the server".to_owned()));
    };
    check_server(&server, problems);
    if let Some(database) = &server.foreign_slot {
        let message = format!("slot \"{slot}\" belongs to database \"{database}\"");
        let hint = format!(
            "Slots are named after tasks, server-wide. If it is not needed there: SELECT \
             pg_drop_replication_slot({}); in that database. Else drop the task here and create \
             it under another name.",
            name::literal(&slot)
        );
        problems.push(Problem::error("replication_slots", message, hint));
    }
    let source = endpoint::find(&task.source)?;
    check_dbname(&source, &server.dbname, problems);
    let username = source.username;
    match &username {
        Some(role) => check_role(role, problems)?,
        None => problems.push(Problem::warning(
            "applier_role",
            format!("source endpoint \"{}\" names no role for the applier", task.source),
            format!(
                "SELECT trem.alter_endpoint({}, username => '<role>'); until then only a \
                 superuser can serve the task.",
                name::literal(&task.source)
            ),
        )),
    }
    check_plugin(server.plugins.as_deref(), username.as_deref(), problems)
}

fn check_server(server: &Server, problems: &mut Vec<Problem>) {
    if server.in_recovery {
        let hint = "Create the extension and the task on the primary.";
        problems.push(Problem::error("recovery", "this server is a standby", hint));
    }
    if server.encoding != "UTF8" {
        problems.push(Problem::error(
            "encoding",
            format!("the database is encoded in {}, and TREM reads UTF8 only", server.encoding),
            "Move the data into a database in UTF8: CREATE DATABASE <name> ENCODING 'UTF8' \
             TEMPLATE template0; then pg_dump and restore, which convert it.",
        ));
    }
    if server.wal_level != "logical" {
        problems.push(Problem::error(
            "wal_level",
            format!("wal_level is {}, and logical decoding needs logical", server.wal_level),
            "ALTER SYSTEM SET wal_level = logical; then restart the server.",
        ));
    }
    if !server.own_slot && server.slots >= server.slots_max {
        problems.push(Problem::error(
            "replication_slots",
            format!(
                "no replication slot is free: {} of {} are taken",
                server.slots, server.slots_max
            ),
            format!(
                "ALTER SYSTEM SET max_replication_slots = {}; then restart the server; or drop a \
                 slot that nobody uses (pg_replication_slots lists them).",
                server.slots_max.max(server.slots) + 4
            ),
        ));
    }
    if server.senders >= server.senders_max {
        problems.push(Problem::error(
            "wal_senders",
            format!("no WAL sender is free: {} of {} run", server.senders, server.senders_max),
            format!(
                "ALTER SYSTEM SET max_wal_senders = {}; then restart the server.",
                server.senders_max + 4
            ),
        ));
    }
}

/// A database may be renamed, or restored under another name.
fn check_dbname(source: &endpoint::Endpoint, dbname: &str, problems: &mut Vec<Problem>) {
    let named = source.dbname.as_deref().unwrap_or_default();
    if named != dbname {
        let message = format!(
            "source endpoint \"{}\" names database \"{named}\", and this one is \"{dbname}\"",
            source.name
        );
        let (name, dbname) = (name::literal(&source.name), name::literal(dbname));
        let hint = format!("SELECT trem.alter_endpoint({name}, dbname => {dbname});");
        problems.push(Problem::error("source_database", message, hint));
    }
}

fn check_role(role: &str, problems: &mut Vec<Problem>) -> Result<(), Error> {
    let quoted = name::quoted(role);
    let mut report = |message: &str, hint: String| {
        let message = format!("role \"{role}\" of the applier {message}");
        problems.push(Problem::error("applier_role", message, hint));
    };
    let Some(found) = spi::row::<Role>(ROLE, &[role.into()])? else {
        report("does not exist", format!("CREATE ROLE {quoted} LOGIN REPLICATION;"));
        return Ok(());
    };
    if !found.login {
        report("cannot log in", format!("ALTER ROLE {quoted} LOGIN;"));
    }
    if !found.replication && !found.superuser {
        report("has no REPLICATION right", format!("ALTER ROLE {quoted} REPLICATION;"));
    }
    if !found.connects {
        let hint = format!(
            "GRANT CONNECT ON DATABASE <this database> TO {quoted}; (it must be able to connect)"
        );
        report("may not connect to this database", hint);
    }
    Ok(())
}

/// Where a value of `output_plugin_libraries` that holds for the applier's sessions comes from.
#[derive(Deserialize)]
struct PluginSetting {
    value: String,
    role: Option<String>,
    database: Option<String>,
}

/// The most specific value wins: role in database, role, database.
const PLUGIN_SETTING: &str = "
    SELECT substr(setting, length('output_plugin_libraries=') + 1) AS value,
           (SELECT rolname FROM pg_roles WHERE oid = s.setrole) AS role,
           (SELECT datname FROM pg_database WHERE oid = s.setdatabase) AS database
    FROM pg_db_role_setting AS s
    CROSS JOIN unnest(s.setconfig) AS setting
    WHERE setting LIKE 'output\\_plugin\\_libraries=%'
      AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND s.setrole IN (0, coalesce((SELECT oid FROM pg_roles WHERE rolname = $1), 0))
    ORDER BY s.setrole = 0, s.setdatabase = 0
    LIMIT 1";

fn check_plugin(
    server_wide: Option<&str>,
    username: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    let Some(server_wide) = server_wide else { return Ok(()) };
    let own = spi::row::<PluginSetting>(PLUGIN_SETTING, &[username.into()])?;
    let value = own.as_ref().map_or(server_wide, |own| own.value.as_str());
    let listed: Vec<&str> = value
        .split(',')
        .map(|library| library.trim().trim_matches('"'))
        .filter(|library| !library.is_empty())
        .collect();
    if listed.contains(&PLUGIN) {
        return Ok(());
    }
    // A quoted list is stored as one bogus name: start again from what the server comes with.
    let kept = if listed.iter().any(|library| library.contains(',')) {
        vec!["pgoutput", "test_decoding"]
    } else {
        listed
    };
    let list = kept.into_iter().chain([PLUGIN]).collect::<Vec<_>>().join(", ");
    let set = format!("SET output_plugin_libraries = {list};");
    let in_database = |database: &Option<String>| match database {
        Some(database) => format!(" IN DATABASE {}", name::quoted(database)),
        None => String::new(),
    };
    let hint = match &own {
        None => format!("ALTER SYSTEM {set} SELECT pg_reload_conf();"),
        Some(PluginSetting { role: Some(role), database, .. }) => {
            format!("ALTER ROLE {}{} {set}", name::quoted(role), in_database(database))
        }
        Some(PluginSetting { database: Some(database), .. }) => {
            format!("ALTER DATABASE {} {set}", name::quoted(database))
        }
        Some(_) => format!("ALTER ROLE ALL {set}"),
    };
    problems.push(Problem::error(
        "output_plugin_libraries",
        "output_plugin_libraries does not list trem, so the server refuses the plugin",
        hint,
    ));
    Ok(())
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    const KNOWN: &str = "SELECT current_setting('output_plugin_libraries', true) IS NOT NULL";

    /// What `check_task` advises about the plugin for the applier's role, if anything.
    fn advice(list: &str) -> Option<String> {
        Spi::run(&format!("ALTER ROLE applier SET output_plugin_libraries = {list}"))
            .expect("the role's setting");
        Spi::get_one(
            "SELECT max(hint) FROM trem.check_task('t')
             WHERE check_name = 'output_plugin_libraries'",
        )
        .expect("the check runs")
    }

    /// Minor releases before August 2026 have no such setting, and nothing to advise.
    #[pg_test]
    fn the_plugin_list_of_the_appliers_role_is_looked_at() {
        Spi::run(
            "CREATE ROLE applier LOGIN REPLICATION;
             CREATE TABLE public.one (id int PRIMARY KEY);
             SELECT trem.create_endpoint('s', 'source', dbname => current_database(),
                                         username => 'applier');
             SELECT trem.create_endpoint('t', 'target', dbname => 'd', host => 'h');
             SELECT trem.create_task('t', 's', 't', '{public.one}');",
        )
        .expect("a task");
        if Spi::get_one::<bool>(KNOWN) != Ok(Some(true)) {
            let problems = "SELECT count(*) FROM trem.check_task('t') WHERE severity = 'error'";
            assert_eq!(Spi::get_one::<i64>(problems), Ok(Some(0)));
            return;
        }
        let set = "ALTER ROLE \"applier\" SET output_plugin_libraries =";
        assert_eq!(advice("pgoutput, wal2json"), Some(format!("{set} pgoutput, wal2json, trem;")));
        assert_eq!(advice("'pgoutput, trem'"), None);
        assert_eq!(advice("trem"), None);
    }
}
