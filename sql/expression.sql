-- The functions that expressions of rules may call besides the built-in ones.

COMMENT ON FUNCTION trem.pseudonym(text, text) IS
    'For expressions: a keyed hash (HMAC-SHA-256, 32 hexadecimal digits); equal values stay equal. '
    'The key is made when a rule first names it and never shown. Only rules can ask for one';
COMMENT ON FUNCTION trem.mask_partial(text, integer, integer) IS
    'For expressions: stars instead of all but the first and last characters';
COMMENT ON FUNCTION trem.mask_email(text) IS
    'For expressions: the first character, three stars, and the domain of an e-mail address';
COMMENT ON FUNCTION trem.mask_number(text) IS
    'For expressions: every digit becomes 9; signs, separators and length stay';
COMMENT ON FUNCTION trem.commit_lsn() IS
    'For expressions: the position of the commit that made the change; NULL in a load';
COMMENT ON FUNCTION trem.commit_timestamp() IS
    'For expressions: when the transaction that made the change committed; NULL in a load';
COMMENT ON FUNCTION trem.pinned_settings() IS
    'The settings under which expressions run, wherever they do';
COMMENT ON FUNCTION trem.operation() IS
    'For expressions: insert, update or delete; load in a load and in preview';

-- What a view of trem_read calls for an expression whose errors could tell of values, or that is
-- not made of built-in types and functions alone: computes it over columns of a table, which the
-- text knows by those names (the first one is the table's), as the owner of the table. The token is
-- the view's, the example of the type of the result, or of what that domain is made of. An error
-- says which rule it was, and its SQLSTATE. Not parallel: the expression is read in a
-- subtransaction, which a parallel plan forbids.
CREATE FUNCTION trem.computed(token uuid, example anyelement, rule_id bigint, relation regclass,
                              output regtype, attnums smallint[], names text[], expression text,
                              VARIADIC columns "any") RETURNS anyelement
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'trem_computed';
COMMENT ON FUNCTION trem.computed(uuid, anyelement, bigint, regclass, regtype, smallint[], text[],
                                  text, "any") IS
    'For the views of trem_read: the value of an expression, whose errors show no value';

-- The same for the statement of trem.preview, which runs as the owner of the table; its token is of
-- that statement alone.
CREATE FUNCTION trem.previewed(token uuid, example anyelement, rule_id bigint, relation regclass,
                               output regtype, attnums smallint[], names text[], expression text,
                               VARIADIC columns "any") RETURNS anyelement
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'trem_previewed';
COMMENT ON FUNCTION trem.previewed(uuid, anyelement, bigint, regclass, regtype, smallint[], text[],
                                   text, "any") IS
    'For trem.preview: the value of an expression, whose errors show no value';
