-- What a user can see of the extension says what it is.
SELECT identity.type, identity.identity
FROM pg_depend AS d, pg_identify_object(d.classid, d.objid, 0) AS identity
WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'trem')
  AND identity.type IN ('function', 'table', 'view', 'schema', 'event trigger', 'type', 'operator')
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
ORDER BY 1, 2;
