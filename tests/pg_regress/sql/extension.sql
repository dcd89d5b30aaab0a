-- The extension lives in a schema of its own.
SELECT extname, extnamespace::regnamespace FROM pg_extension WHERE extname = 'trem';
