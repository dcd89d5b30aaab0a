-- The first part of every upgrade: takes away what keeps no data. Views of trem_read that call a
-- function of ours go with it; `start_task` makes them again.

-- Who was granted what, to be granted again at the end.
CREATE TEMPORARY TABLE trem_upgrade_role ON COMMIT DROP AS
SELECT DISTINCT r.rolname AS role, p.proname = 'start_task' AS is_operator
FROM pg_proc AS p, aclexplode(p.proacl) AS acl JOIN pg_roles AS r ON r.oid = acl.grantee
WHERE p.pronamespace = 'trem'::regnamespace AND p.proname IN ('start_task', 'applier_tasks')
  AND acl.grantee <> p.proowner;

DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DROP %s %s CASCADE', kind, identity)
        FROM pg_depend AS d
        CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid)
            AS object (type, schema, name, identity)
        CROSS JOIN LATERAL (SELECT CASE object.type WHEN 'function' THEN 'FUNCTION IF EXISTS'
                                                    WHEN 'view' THEN 'VIEW IF EXISTS'
                                                    WHEN 'event trigger' THEN 'EVENT TRIGGER'
                                   END) AS dropped (kind)
        WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
          AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'trem')
          AND kind IS NOT NULL
        -- An event trigger would hear of the others.
        ORDER BY object.type = 'event trigger' DESC, object.type = 'view' DESC
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
