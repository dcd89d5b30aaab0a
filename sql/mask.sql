-- The keys of pseudonyms. Whoever makes rules may have one made and never sees it.

COMMENT ON FUNCTION trem.make_mask_key(text) IS
    'Makes the key of that name for trem.pseudonym, if there is none';
