-- The two functions about endpoints whose arguments are many: SQL names and defaults them.

CREATE FUNCTION trem.create_endpoint(
    name text, role text, kind text DEFAULT 'postgresql', dbname text DEFAULT NULL,
    host text DEFAULT NULL, port integer DEFAULT NULL, username text DEFAULT NULL,
    password text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    SELECT trem.endpoint_create(jsonb_build_object(
        'name', name, 'role', role, 'kind', kind, 'dbname', dbname, 'host', host, 'port', port,
        'username', username, 'password', password, 'options', options))
$$;
COMMENT ON FUNCTION
    trem.create_endpoint(text, text, text, text, text, integer, text, text, jsonb) IS
    'Makes known a database that tasks read from (role source: this one) or write to (role target)';

CREATE FUNCTION trem.alter_endpoint(
    name text, kind text DEFAULT NULL, dbname text DEFAULT NULL, host text DEFAULT NULL,
    port integer DEFAULT NULL, username text DEFAULT NULL, password text DEFAULT NULL,
    options jsonb DEFAULT NULL)
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    SELECT trem.endpoint_alter(jsonb_build_object(
        'name', name, 'kind', kind, 'dbname', dbname, 'host', host, 'port', port,
        'username', username, 'password', password, 'options', options))
$$;
COMMENT ON FUNCTION
    trem.alter_endpoint(text, text, text, text, integer, text, text, jsonb) IS
    'Changes what is given; an empty text takes a value away, a null among the options an option';
