-- TREM's own functions in rules: masks, pseudonyms with keys that nobody sees, and what may be asked
-- of a change.
SET client_min_messages = error;
CREATE ROLE trem_x_applier LOGIN REPLICATION;
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, email text, card text, n int);
CREATE TABLE app.loose (a int, b text);
ALTER TABLE app.loose REPLICA IDENTITY FULL;
INSERT INTO app.t VALUES (1, 'ana@example.com', '4000-1234', 1), (2, 'ana@example.com', NULL, 2);
SELECT trem.create_endpoint('src', 'source', username => 'trem_x_applier');
SELECT trem.create_endpoint('dst', 'target', dbname => 'x');
SELECT trem.create_task('t', 'src', 'dst', '{app.*}') IS NOT NULL AS made;

SELECT trem.add_column('t', 'app.t', 'mail_hash', 'text', 'pseudonym(email, ''rules_mask'')') > 0 AS made;
SELECT trem.set_value('t', 'app.t', 'email', 'trem.mask_email(email)') > 0 AS made;
SELECT trem.set_value('t', 'app.t', 'card', 'mask_number(mask_partial(card, 2, 2))') > 0 AS made;
SELECT trem.add_column('t', 'app.t', 'lsn', 'pg_lsn', 'commit_lsn()') > 0 AS made;
SELECT trem.add_column('t', 'app.t', 'at', 'timestamptz', 'trem.commit_timestamp()') > 0 AS made;
SELECT trem.add_column('t', 'app.t', 'how', 'text', 'operation()') > 0 AS made;
SELECT name, length(key) FROM trem.mask_key WHERE name = 'rules_mask';

-- The key is not told, and none is made for a rule that is refused.
SELECT trem.set_value('t', 'app.t', 'n', 'pseudonym(email, card)');
SELECT trem.set_value('t', 'app.t', 'n', 'pseudonym(email, ''rules_refused'') || nope');
SELECT trem.add_column('t', 'app.t', 'x', 'text', 'pseudonym(email, '''')');
SELECT trem.add_column('t', 'app.t', 'x', 'text', 'pseudonym(email, ''' || repeat('k', 64) || ''')');
SELECT count(*) FROM trem.mask_key WHERE name ~ '^rules_refused|^k*$';

-- A constant is not computed before its key is there.
SELECT trem.set_value('t', 'app.t', 'n', 'length(pseudonym(''constant'', ''rules_constant''))') > 0 AS made;
SELECT name FROM trem.mask_key WHERE name = 'rules_constant';

SELECT email, card, lsn, at, how, length(mail_hash), mail_hash = lag(mail_hash) OVER (ORDER BY id) AS joins
FROM trem.preview('t', 'app.t') AS p (row), jsonb_to_record(row)
    AS r (id int, email text, card text, lsn pg_lsn, at timestamptz, how text, mail_hash text) ORDER BY id;

-- The applier reads the same through the view, whose functions it may call, and not the key.
SELECT trem.start_task('t');
SELECT format('trem_read.%I', d->'leaves'->0->>'view') AS view
FROM trem.definition, jsonb_array_elements(content->'tables') AS d WHERE d->>'source_name' = 't' \gset
CREATE TEMPORARY TABLE previewed AS
SELECT row->>'mail_hash' AS mail_hash FROM trem.preview('t', 'app.t') AS p (row);
GRANT SELECT ON previewed TO trem_x_applier;
SET SESSION AUTHORIZATION trem_x_applier;
SELECT id, email, card, n, lsn, at, how, mail_hash IN (SELECT mail_hash FROM previewed) AS same FROM :view ORDER BY id;
SELECT email FROM app.t;
SELECT * FROM trem.mask_key;
RESET SESSION AUTHORIZATION;

-- A change's own things are not for filters and keys, nor where rows are found by all their values.
SELECT trem.set_filter('t', 'app.t', 'trem.operation() = ''insert''');
SELECT trem.set_value('t', 'app.t', 'id', 'length(trem.operation())');
SELECT trem.add_column('t', 'app.loose', 'at', 'pg_lsn', 'trem.commit_lsn()');

SELECT trem.stop_task('t'), trem.drop_task('t');
DELETE FROM trem.mask_key WHERE name IN ('rules_mask', 'rules_constant');
SELECT trem.drop_endpoint('src'), trem.drop_endpoint('dst');
DROP SCHEMA app CASCADE;
DROP OWNED BY trem_x_applier;
DROP ROLE trem_x_applier;
