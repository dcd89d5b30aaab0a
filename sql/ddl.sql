-- A view keeps its table from being changed. Those of trem_read give way: see trem_ext's
-- catalog/ddl.rs.

CREATE EVENT TRIGGER trem_give_way ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'DROP TABLE')
    EXECUTE FUNCTION trem.give_way();
-- A session that replays somebody's changes (session_replication_role) changes tables as well.
ALTER EVENT TRIGGER trem_give_way ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER trem_give_way IS
    'Drops the views of trem_read that would keep a table from being changed or dropped';

CREATE EVENT TRIGGER trem_keep_slots ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION trem.keep_slots();
COMMENT ON EVENT TRIGGER trem_keep_slots IS
    'Refuses to drop the extension while its tasks have replication slots';

-- What a command does to a table beside its rows is not in the WAL that a stream decodes. See
-- trem_ext's catalog/note.rs.

CREATE EVENT TRIGGER trem_note_change ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER TYPE', 'ALTER SCHEMA')
    EXECUTE FUNCTION trem.note_change();
CREATE EVENT TRIGGER trem_note_rewrite ON table_rewrite
    EXECUTE FUNCTION trem.note_change();
CREATE EVENT TRIGGER trem_note_drop ON sql_drop
    WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP TYPE', 'DROP EXTENSION')
    EXECUTE FUNCTION trem.note_change();
ALTER EVENT TRIGGER trem_note_change ENABLE ALWAYS;
ALTER EVENT TRIGGER trem_note_rewrite ENABLE ALWAYS;
ALTER EVENT TRIGGER trem_note_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER trem_note_change IS
    'Notes in trem.table_change and in the WAL what changed of a table beside its rows';
COMMENT ON EVENT TRIGGER trem_note_rewrite IS
    'Notes in trem.table_change and in the WAL that a table is written anew';
COMMENT ON EVENT TRIGGER trem_note_drop IS
    'Notes in trem.table_change and in the WAL which tables were dropped';

-- A definition asks for what came after it, so
-- rows go that are older than every one in use. Nobody waits for whoever does the same.
CREATE FUNCTION trem.forget_changes() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, trem, pg_temp
AS $$
    DELETE FROM trem.table_change WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM trem.table_change AS c
        WHERE c.lsn < (SELECT min((d.content->>'published_lsn')::pg_lsn)
                       FROM trem.definition AS d JOIN trem.task USING (task_id, definition_version))
        FOR UPDATE SKIP LOCKED))
$$;
COMMENT ON FUNCTION trem.forget_changes() IS
    'Deletes the rows of trem.table_change that no published task asks for';
