-- The last part of every upgrade.

DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN SELECT * FROM trem_upgrade_role LOOP
        IF granted.is_operator THEN
            PERFORM trem.grant_operator(granted.role);
        ELSE
            PERFORM trem.grant_applier(granted.role::text);
        END IF;
    END LOOP;
END
$$;
DROP TABLE trem_upgrade_role;
