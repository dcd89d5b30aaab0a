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
