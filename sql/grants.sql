-- Runs last. Functions are executable by everybody when they are made, so that is taken back here:
-- nothing of TREM is open to PUBLIC.

REVOKE ALL ON SCHEMA trem, trem_read FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA trem FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA trem FROM PUBLIC;
