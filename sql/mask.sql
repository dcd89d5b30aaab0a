-- The keys of pseudonyms. Whoever makes rules may have one made and never sees it.

CREATE FUNCTION trem.make_mask_key(key_name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, trem, pg_temp
AS $$
    INSERT INTO trem.mask_key (name, key)
    -- Each id has 122 bits from the server's strong random source.
    SELECT key_name, sha256(convert_to(string_agg(gen_random_uuid()::text, '-'), 'UTF8'))
    FROM generate_series(1, 3)
    ON CONFLICT (name) DO NOTHING
$$;
COMMENT ON FUNCTION trem.make_mask_key(text) IS
    'Makes the key of that name for trem.pseudonym, if there is none';
