-- Spreads a library over several machines with Citus (11 or later): every item, and all that belongs to it, lies on one of them.
-- Run once, with psql on the coordinator, after `spoken db migrate` and while no spoken process runs:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f scripts/deploy/citus.sql
--
-- Before that, as the administrator, on the coordinator and the workers: CREATE EXTENSION citus; CREATE EXTENSION vector; and
-- on the coordinator SELECT citus_set_coordinator_host('db0', 5432); SELECT citus_add_node('db1', 5432); …
--
-- What is not named here is small and stays on the coordinator. Tables of vectors that are made later are spread by the program.

BEGIN;

-- Keys that point at an item are put back when both ends lie together.
CREATE TEMPORARY TABLE keys ON COMMIT DROP AS
SELECT conrelid::regclass::text AS of_table, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE contype = 'f' AND confrelid = 'media'::regclass;

SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', of_table, name) FROM keys \gexec

SELECT create_distributed_table('media', 'media_id');
SELECT create_distributed_table(belonging::regclass, 'media_id', colocate_with => 'media')
FROM unnest(ARRAY['media_sources', 'segments', 'passages', 'handovers', 'source_entries', 'governor_refusals', 'upgrades',
                  'removed']) AS belonging;
SELECT create_distributed_table(table_name::regclass, 'media_id', colocate_with => 'media') FROM embedding_models;

SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', of_table, name, definition) FROM keys \gexec

COMMIT;
