-- The functions that expressions of rules may call besides the built-in ones.

COMMENT ON FUNCTION trem.pseudonym(text, text) IS
    'For expressions: a keyed hash (HMAC-SHA-256, 32 hexadecimal digits); equal values stay equal. '
    'The key is made when a rule first names it and never shown';
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
COMMENT ON FUNCTION trem.operation() IS
    'For expressions: insert, update or delete; load in a load and in preview';
