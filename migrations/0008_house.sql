-- Keeping house: which embedding model answers, doing again what is doubtful, removing for good, keeping for a time.
--
-- All new columns may stay empty, so that adding them to a large library takes no time: nothing is rewritten.

-- The model whose vectors answer searches by meaning. One row as soon as anything was embedded; changed when all of another
-- model's vectors are there (`spoken reembed`), so that from one search to the next another table answers. Under Citus a
-- reference table.
CREATE TABLE answering (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    model_id  text NOT NULL,
    dimension integer NOT NULL,
    since     timestamptz NOT NULL DEFAULT now()
);
-- Until now the configured model answered; the one of most items is most likely that.
INSERT INTO answering (model_id, dimension)
SELECT e.model_id, e.dimension FROM embedding_models e
ORDER BY (SELECT count(*) FROM media m WHERE m.embedding_model = e.model_id) DESC, e.created_at DESC
LIMIT 1;

-- What EMBEDDING_MODEL said where the model was loaded last, a name or a directory: so that it can be loaded again where
-- EMBEDDING_MODEL says something else by now.
ALTER TABLE embedding_models ADD COLUMN setting text;

ALTER TABLE media
    -- The fence under which the stored segments, passages and vectors were written: while it is the same, they are. Null
    -- for items of before.
    ADD COLUMN stored_fence  bigint,
    -- Further models, beside embedding_model, that have a vector of each stored passage.
    ADD COLUMN embedded_also text[] NOT NULL DEFAULT '{}';

-- Items that `spoken upgrade` did again because they were doubtful, so that it does none twice. A row goes when the item is
-- done again in any other way.
CREATE TABLE upgrades (
    media_id    uuid NOT NULL REFERENCES media ON DELETE CASCADE,
    -- The Whisper model they were done with; `from_model` is what the transcript named before.
    model       text NOT NULL,
    from_model  text,
    -- Windows of the recording that were believed as they were; the others were heard again.
    kept        integer NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (media_id, model)
);

-- What was removed and shall not be found again.
CREATE TABLE removed (
    media_id   uuid PRIMARY KEY,
    title      text NOT NULL,
    source     text NOT NULL,
    -- Whose doing it was: null, a person's; else the rule that it fell under.
    rule       text,
    removed_at timestamptz NOT NULL DEFAULT now()
);

-- How long the items of a source are kept; null: as configured, 0: for ever.
ALTER TABLE sources
    ADD COLUMN keep_last integer CHECK (keep_last >= 0),
    ADD COLUMN keep_days integer CHECK (keep_days >= 0);
