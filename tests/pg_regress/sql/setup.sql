-- Runs first, in a new database.
CREATE EXTENSION trem;
