#!/usr/bin/env bash
# A story in two throw-away databases: what TREM does, shown with the flights of New York, 2013.
#
# KEEP=1 leaves databases and applier running and tells how to connect and how to stop them.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    title=$'\e[1;34m' faint=$'\e[2m' good=$'\e[1;32m' plain=$'\e[0m'
else
    title='' faint='' good='' plain=''
fi

chapter() { printf '\n%s%s%s\n' "$title" "$*" "$plain"; }
tell() { printf '%s\n' "$*"; }

# --- Build, quietly: the story is the point. --------------------------------------------------

chapter "Building TREM (the first time takes some minutes; .work/demo-build.log tells)"
mkdir -p "$WORK"
if ! { cargo build --release -p trem_applier && tools/install.sh "$WORK/pg_config"; } \
    >"$WORK/demo-build.log" 2>&1; then
    cat "$WORK/demo-build.log"
    fail "the build failed"
fi
bin=$("$WORK/pg_config" --bindir)
applier=$ROOT/target/release/trem-applier
tell "The extension is installed in a private copy of PostgreSQL, $("$bin/postgres" --version | cut -d' ' -f3)."

# --- Two clusters, and their end whatever happens. --------------------------------------------

run=$(make_run_folder demo)
applier_pid=

clean_up() {
    local side
    if [ -n "$applier_pid" ]; then
        kill -TERM "$applier_pid" 2>/dev/null || true
        wait "$applier_pid" 2>/dev/null || true
    fi
    for side in source target; do
        [ ! -e "$run/$side/postmaster.pid" ] ||
            "$bin/pg_ctl" stop -s -m immediate -D "$run/$side" || true
    done
    rm -rf "$run"
}
trap clean_up EXIT

start_cluster() {
    local side=$1 port=$2
    as_server_user mkdir "$run/$side"
    "$bin/initdb" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N -D "$run/$side" >/dev/null
    {
        printf "listen_addresses = ''\nport = %s\nunix_socket_directories = '%s'\n" "$port" "$run"
        printf "wal_level = logical\nfsync = off\ntimezone = 'UTC'\n"
        if has_output_plugin_libraries; then
            echo "output_plugin_libraries = 'pgoutput, test_decoding, trem'"
        fi
    } >>"$run/$side/postgresql.conf"
    "$bin/pg_ctl" start -s -w -D "$run/$side" -l "$run/$side/log"
}

source_sql() {
    "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -h "$run" -p 6001 -U postgres -d airport "$@"
}
target_sql() {
    "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -h "$run" -p 6002 -U postgres -d reports "$@"
}
# A table of rows as a person reads it, indented.
show() {
    local side=$1
    shift
    "${side}_sql" --no-align -P footer=off -P format=aligned -P tuples_only=off -P null=- -c "$*" |
        sed '/^$/d; s/^/    /'
}
run_sql() {
    printf '%s    %s%s\n' "$faint" "$*" "$plain"
    source_sql -c "$*" >/dev/null
}

chapter "1. Two databases"
tell "\"airport\" is where flights are recorded. \"reports\" is where analysts work; nothing of TREM is"
tell "installed there."
start_cluster source 6001
start_cluster target 6002
"$bin/psql" -Xq -h "$run" -p 6001 -U postgres -d postgres -c "CREATE DATABASE airport"
"$bin/psql" -Xq -h "$run" -p 6002 -U postgres -d postgres \
    -c "CREATE ROLE loader LOGIN" -c "CREATE DATABASE reports OWNER loader"

source_sql <<'SQL'
CREATE SCHEMA nyc;
CREATE TABLE nyc.airlines (carrier text PRIMARY KEY, name text NOT NULL);
CREATE TABLE nyc.airports (faa text PRIMARY KEY, name text NOT NULL, lat double precision,
    lon double precision, alt int, tz int, dst text, tzone text);
CREATE TABLE nyc.planes (tailnum text PRIMARY KEY, year int, type text, manufacturer text,
    model text, engines int, seats int, speed int, engine text);
CREATE TABLE nyc.weather (origin text, year int, month int, day int, hour int, temp numeric,
    dewp numeric, humid numeric, wind_dir int, wind_speed double precision,
    wind_gust double precision, precip numeric, pressure numeric, visib numeric,
    time_hour timestamptz, PRIMARY KEY (origin, time_hour));
CREATE TABLE nyc.flights (year int, month int, day int, dep_time int, sched_dep_time int,
    dep_delay int, arr_time int, sched_arr_time int, arr_delay int, carrier text, flight int,
    tailnum text, origin text, dest text, air_time int, distance int, hour int, minute int,
    time_hour timestamptz);
SQL
for table in airlines airports planes weather flights; do
    gzip -dc "data/nycflights13/$table.csv.gz" |
        source_sql -c "COPY nyc.$table FROM STDIN (FORMAT csv, HEADER, NULL 'NA')"
done
# The data have no key for a flight: a number of our own, and the key that says so. Nor do they have
# persons: a contact for each airline is made up.
source_sql <<'SQL'
ALTER TABLE nyc.flights ADD COLUMN flight_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
CREATE TABLE nyc.contacts (carrier text PRIMARY KEY REFERENCES nyc.airlines, person text NOT NULL,
    email text NOT NULL, phone text);
INSERT INTO nyc.contacts
SELECT carrier, 'Contact ' || n, format('contact.%s@%s.example', n, lower(carrier)),
    format('+1 212 555 %s', 1000 + 37 * n)
FROM (SELECT carrier, row_number() OVER (ORDER BY carrier) AS n FROM nyc.airlines) AS numbered;
VACUUM ANALYZE;
SQL
show source "SELECT relname AS table, to_char(reltuples, 'FM999,999,999') AS rows
    FROM pg_class WHERE relnamespace = 'nyc'::regnamespace AND relkind = 'r' ORDER BY reltuples DESC"

chapter "2. A task, in SQL"
tell "The owner of the data says what goes where, under which names and in which form. All of it"
tell "happens inside the source, for the copy and for every change after it."
run_sql "CREATE EXTENSION trem"
run_sql "CREATE ROLE trem_applier LOGIN REPLICATION"
run_sql "SELECT trem.create_endpoint('here', 'source', username => 'trem_applier')"
run_sql "SELECT trem.create_endpoint('reports', 'target', dbname => 'reports', host => '$run', port => 6002, username => 'loader')"
run_sql "SELECT trem.create_task('demo', 'here', 'reports', ARRAY['nyc.*'])"
tell "Other names:"
run_sql "SELECT trem.rename_schema('demo', 'nyc.*', 'reporting')"
run_sql "SELECT trem.rename_table('demo', 'nyc.flights', 'departures')"
run_sql "SELECT trem.rename_column('demo', 'nyc.flights', 'dest', 'destination')"
tell "Only flights that left the ground; a filter on any column, no special replica identity:"
run_sql "SELECT trem.set_filter('demo', 'nyc.flights', 'dep_time IS NOT NULL')"
tell "A column less, a column more, another type, other values:"
run_sql "SELECT trem.exclude_column('demo', 'nyc.flights', 'minute')"
run_sql "SELECT trem.add_column('demo', 'nyc.flights', 'route', 'text', 'origin || ''-'' || dest')"
run_sql "SELECT trem.change_type('demo', 'nyc.flights', 'dep_delay', 'interval', 'make_interval(mins => dep_delay)')"
run_sql "SELECT trem.set_value('demo', 'nyc.weather', 'temp', 'round((temp - 32) / 1.8, 1)')"
tell "Which plane it was is nobody's business there. A pseudonym hides it and still joins:"
run_sql "SELECT trem.set_value('demo', 'nyc.flights', 'tailnum', 'trem.pseudonym(tailnum, ''fleet'')')"
run_sql "SELECT trem.set_value('demo', 'nyc.planes', 'tailnum', 'trem.pseudonym(tailnum, ''fleet'')')"
tell "And persons are masked:"
run_sql "SELECT trem.set_value('demo', 'nyc.contacts', 'person', '''(hidden)''')"
run_sql "SELECT trem.set_value('demo', 'nyc.contacts', 'email', 'trem.mask_email(email)')"
run_sql "SELECT trem.set_value('demo', 'nyc.contacts', 'phone', 'trem.mask_number(phone)')"
tell "Nothing leaves before the task is started:"
run_sql "SELECT trem.start_task('demo')"

conninfo="host=$run port=6001 dbname=airport user=trem_applier"

chapter "3. The first copy"
tell "The applier copies every table as of one moment, builds keys, and catches up. Its role"
tell "has no right to read the tables: it sees only what the task lets through."
tell "    ${faint}trem-applier run --task demo --until-caught-up${plain}"
began=$(date +%s%N)
"$applier" run --source "$conninfo" --task demo --until-caught-up 2>"$run/copy.log" || {
    cat "$run/copy.log"
    fail "the copy failed"
}
tell "Done in $((($(date +%s%N) - began) / 1000000)) ms."
show target "SELECT relname AS \"table in reporting\",
    to_char((xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %s', oid::regclass),
        false, true, '')))[1]::text::bigint, 'FM999,999,999') AS rows
    FROM pg_class WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'r'
    ORDER BY pg_relation_size(oid) DESC"

tell "A contact and a plane as they are on the source:"
show source "SELECT * FROM nyc.contacts WHERE carrier = 'UA'"
show source "SELECT p.tailnum, p.manufacturer, p.model, count(*) AS flights FROM nyc.planes p
    JOIN nyc.flights f USING (tailnum) WHERE p.tailnum = 'N14228' AND dep_time IS NOT NULL GROUP BY p.tailnum"
tell "The same two in reports:"
show target "SELECT * FROM reporting.contacts WHERE carrier = 'UA'"
pseudonym=$(source_sql -c "SELECT trem.pseudonym('N14228', 'fleet')")
show target "SELECT p.tailnum, p.manufacturer, p.model, count(*) AS flights FROM reporting.planes p
    JOIN reporting.departures f USING (tailnum) WHERE p.tailnum = '$pseudonym' GROUP BY p.tailnum"

chapter "4. A day at the airport, while the applier follows"
"$applier" run --source "$conninfo" --task demo 2>"$run/applier.log" &
applier_pid=$!

# Until the target has applied everything that the source has committed: a mark of TREM's own
# travels through the stream, and the target's progress passes it.
catch_up() {
    local _
    mark=$(source_sql -c "SELECT trem.applier_barrier('demo', 'demo')")
    for _ in $(seq 600); do
        if [ "$(target_sql -c "SELECT applied_lsn > '$mark' FROM trem_target.progress")" = t ]; then
            return
        fi
        if ! kill -0 "$applier_pid" 2>/dev/null; then
            cat "$run/applier.log"
            fail "the applier ended"
        fi
        sleep 0.1
    done
    cat "$run/applier.log"
    fail "the applier does not keep up"
}
# The applier tells the source what it did about once a second.
wait_for_report() {
    local _
    for _ in $(seq 100); do
        if [ "$(source_sql -c "SELECT applied_lsn > '$mark' FROM trem.task_status")" = t ]; then
            return
        fi
        sleep 0.1
    done
}
catch_up

# Four flights of 31 December: as they are, and as they arrive.
here_board="SELECT flight_id, carrier || ' ' || flight AS flight, origin, dest, dep_time, dep_delay,
    tailnum FROM nyc.flights
    WHERE month = 12 AND day = 31 AND carrier || ' ' || flight IN
        ('UA 15', 'HA 51', 'EV 4999', 'B6 9999') ORDER BY flight_id"
there_board="SELECT flight_id, carrier || ' ' || flight AS flight, route, destination, dep_time,
    dep_delay, left(tailnum, 8) || '...' AS tailnum FROM reporting.departures
    WHERE month = 12 AND day = 31 AND carrier || ' ' || flight IN
        ('UA 15', 'HA 51', 'EV 4999', 'B6 9999') ORDER BY flight_id"
source_sql <<'SQL'
INSERT INTO nyc.flights (year, month, day, sched_dep_time, carrier, flight, tailnum, origin, dest,
    distance, hour, minute, time_hour)
VALUES (2013, 12, 31, 2330, 'EV', 4999, 'N14228', 'EWR', 'BOS', 200, 23, 30, '2013-12-31 23:00-05');
SQL
catch_up
tell "Before. On the source (EV 4999 has not left yet, so it does not pass the filter):"
show source "$here_board"
tell "In reports:"
show target "$there_board"

tell "New Year's Eve gets worse. In one transaction: UA 15 is cancelled after all, HA 51 is delayed,"
tell "EV 4999 leaves at last, and B6 9999 is put on."
last=$(source_sql -c "SELECT max(flight_id) FROM nyc.flights")
source_sql <<'SQL'
BEGIN;
UPDATE nyc.flights SET dep_time = NULL, dep_delay = NULL
    WHERE carrier = 'UA' AND flight = 15 AND month = 12 AND day = 31;
UPDATE nyc.flights SET dep_delay = 180
    WHERE carrier = 'HA' AND flight = 51 AND month = 12 AND day = 31;
UPDATE nyc.flights SET dep_time = 2359, dep_delay = 29
    WHERE carrier = 'EV' AND flight = 4999 AND month = 12 AND day = 31;
INSERT INTO nyc.flights (year, month, day, dep_time, sched_dep_time, dep_delay, carrier, flight,
    tailnum, origin, dest, distance, hour, minute, time_hour)
VALUES (2013, 12, 31, 2355, 2355, 0, 'B6', 9999, 'N14228', 'JFK', 'SFO', 2586, 23, 55,
    '2013-12-31 23:00-05');
COMMIT;
SQL
catch_up
tell "After. On the source:"
show source "$here_board"
tell "In reports (UA 15 has gone, EV 4999 and B6 9999 have come):"
show target "$there_board"

tell "Then a storm: some 10,000 flights late, 500 deleted, an airline renamed; one mistake rolled back."
source_sql <<SQL
UPDATE nyc.flights SET dep_delay = coalesce(dep_delay, 0) + 45 WHERE flight_id % 33 = 0;
DELETE FROM nyc.flights WHERE flight_id <= $last AND flight_id % 671 = 5;
UPDATE nyc.airlines SET name = 'Endeavor Air (winter schedule)' WHERE carrier = '9E';
BEGIN;
DELETE FROM nyc.weather;
ROLLBACK;
SQL
for n in $(seq 50); do
    echo "INSERT INTO nyc.flights (year, month, day, dep_time, carrier, flight, origin, dest, time_hour)
          VALUES (2014, 1, 1, 1200, 'DL', $n, 'LGA', 'ATL', '2014-01-01 12:00-05');"
done | source_sql
catch_up
wait_for_report
show source "SELECT table_name, target_table, rows_loaded AS loaded, inserts, updates, deletes
    FROM trem.table_status ORDER BY rows_loaded DESC"

chapter "5. Is it the same?"
tell "Every value of every table, digested on both sides; on the source with the same rules, written"
tell "by hand in SQL:"
failed=0
digest() { "$1_sql" -c "COPY ($2) TO STDOUT (FORMAT binary)" | cksum; }
# Table in reports, its key, and what it should be.
compare() {
    local table=$1 key=$2 wanted=$3 here there verdict
    here=$(digest source "SELECT * FROM ($wanted) AS wanted ORDER BY $key")
    there=$(digest target "SELECT * FROM reporting.$table ORDER BY $key")
    verdict="${good}same${plain}"
    if [ "$here" != "$there" ]; then
        verdict=DIFFERENT
        failed=1
    fi
    printf '    %-14s %-12s %s\n' "$table" "${here%% *}" "$verdict"
}
compare departures flight_id "SELECT year, month, day, dep_time, sched_dep_time,
    make_interval(mins => dep_delay) AS dep_delay, arr_time, sched_arr_time, arr_delay, carrier,
    flight, trem.pseudonym(tailnum, 'fleet') AS tailnum, origin, dest AS destination, air_time,
    distance, hour, time_hour, flight_id, origin || '-' || dest AS route
    FROM nyc.flights WHERE dep_time IS NOT NULL"
compare airlines carrier 'SELECT * FROM nyc.airlines'
compare airports faa 'SELECT * FROM nyc.airports'
compare planes 'tailnum COLLATE "C"' "SELECT trem.pseudonym(tailnum, 'fleet') AS tailnum, year, type, manufacturer,
    model, engines, seats, speed, engine FROM nyc.planes"
compare contacts carrier "SELECT carrier, '(hidden)' AS person, trem.mask_email(email) AS email,
    trem.mask_number(phone) AS phone FROM nyc.contacts"
compare weather 'origin, time_hour' "SELECT origin, year, month, day, hour,
    round((temp - 32) / 1.8, 1) AS temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip,
    pressure, visib, time_hour FROM nyc.weather"
if [ "$(target_sql -c "SELECT count(*) FROM reporting.departures WHERE tailnum LIKE 'N%'")" != 0 ]; then
    tell "    a tail number is on the target"
    failed=1
else
    tell "    and no tail number ever left the source"
fi
[ $failed = 0 ] || fail "the target differs from what the rules say"

if [ -z "${KEEP:-}" ]; then
    chapter "The end"
    tell "Everything is stopped and removed. make demo KEEP=1 leaves it up to try things by hand."
    exit 0
fi

cat >"$run/stop" <<STOP
#!/usr/bin/env bash
kill -TERM $applier_pid 2>/dev/null
"$bin/pg_ctl" stop -s -m immediate -D "$run/source"
"$bin/pg_ctl" stop -s -m immediate -D "$run/target"
rm -rf "$run"
STOP
chmod 755 "$run/stop"
trap - EXIT
disown "$applier_pid"
chapter "It is all yours"
tell "Source:   $bin/psql -h $run -p 6001 -U postgres airport"
tell "Target:   $bin/psql -h $run -p 6002 -U postgres reports"
tell "Status:   $applier status --source '$conninfo'"
tell "Applier:  process $applier_pid, its log is $run/applier.log"
tell "Stop it and remove everything:   $run/stop"
