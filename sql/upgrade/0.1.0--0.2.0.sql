-- The tables of 0.1.0 become those of 0.2.0.

-- Operators no longer write to TREM's tables themselves.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT DISTINCT c.oid::regclass AS relation, acl.grantee::regrole AS role
        FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.relnamespace = 'trem'::regnamespace AND acl.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', granted.relation, granted.role);
    END LOOP;
END
$$;

CREATE TABLE trem.endpoint_password (
    name     text PRIMARY KEY REFERENCES trem.endpoint ON DELETE CASCADE,
    password text NOT NULL
);
COMMENT ON TABLE trem.endpoint_password IS 'Passwords of endpoints; only the applier is given them';
INSERT INTO trem.endpoint_password (name, password)
SELECT name, password FROM trem.endpoint WHERE password IS NOT NULL;
ALTER TABLE trem.endpoint
    ALTER COLUMN password TYPE boolean USING password IS NOT NULL,
    ALTER COLUMN owner DROP DEFAULT;
ALTER TABLE trem.endpoint
    ALTER COLUMN password SET DEFAULT false,
    ALTER COLUMN password SET NOT NULL;
ALTER TABLE trem.task ALTER COLUMN owner DROP DEFAULT;

CREATE TABLE trem.view_token (
    id      text PRIMARY KEY,
    token   uuid NOT NULL DEFAULT gen_random_uuid(),
    task_id uuid NOT NULL REFERENCES trem.task (task_id) ON DELETE CASCADE
);
COMMENT ON TABLE trem.view_token IS 'Tokens with which the views of trem_read call trem.computed';

CREATE TABLE trem.message_key (
    key bytea NOT NULL
);
COMMENT ON TABLE trem.message_key IS 'The secret under which TREM signs its messages in the WAL';
INSERT INTO trem.message_key (key)
SELECT sha256(convert_to(string_agg(gen_random_uuid()::text, '-'), 'UTF8'))
FROM generate_series(1, 3);

CREATE TABLE trem.table_change (
    lsn        pg_lsn NOT NULL,
    relation   oid NOT NULL,
    root       oid NOT NULL,
    change     text NOT NULL,
    changed_at timestamptz NOT NULL
);
COMMENT ON TABLE trem.table_change IS
    'Changes of tables that are not in the WAL: partitions that came or went, rewrites, renames';

-- What is published was published here: an upgrade changes no OIDs.
ALTER TABLE trem.definition ADD COLUMN database_identity text;
UPDATE trem.definition SET database_identity = concat_ws('.',
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    (SELECT oid FROM pg_extension WHERE extname = 'trem'));
ALTER TABLE trem.definition ALTER COLUMN database_identity SET NOT NULL;

