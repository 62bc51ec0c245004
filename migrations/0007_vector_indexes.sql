-- What is known about the indexes of the tables of vectors: how far a search must look to find what it should, and how
-- the index was built. The index itself is found in PostgreSQL's own catalog; a row without one is of the past and is
-- not read.

-- One row for each table in embedding_models that ever had an index. Small: a reference table under Citus.
CREATE TABLE vector_indexes (
    table_name  text PRIMARY KEY,
    -- hnsw.ef_search that searches use.
    ef_search   integer NOT NULL,
    -- Of ten nearest, the share that a search with it finds; how many searches that was measured with, and when.
    recall      real NOT NULL,
    samples     integer NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now(),
    -- How it was built; null where it was not by this program.
    built_at    timestamptz,
    build_ms    bigint,
    built_rows  bigint,
    memory_mb   bigint,
    workers     integer
);

-- A search in one language: common ones are met often enough, rare ones would be looked for in the whole library. Takes
-- 7 bytes a row, since equal keys are stored once.
CREATE INDEX passages_language ON passages (language);
