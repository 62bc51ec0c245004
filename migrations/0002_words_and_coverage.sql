-- When each word was said, how much of the speech has text, and what was not believed.
--
-- All new columns may stay empty, so that adding them to a large library takes no time: nothing is rewritten.

-- [[start_ms, end_ms, "text", probability], …] in order, on the player's clock; null where there are none. An array of
-- arrays, because the names would take more room than the values.
ALTER TABLE segments ADD COLUMN words jsonb;

ALTER TABLE media
    -- {"transcribed_ms", "words", "gaps": [{"start_ms", "end_ms"}, …], "flags": […]}; null for items of before.
    ADD COLUMN coverage      jsonb,
    -- [{"start_ms", "end_ms", "text", "language", "reason"}, …], the first thousand; null where there are none.
    ADD COLUMN dropped       jsonb,
    -- How many there were.
    ADD COLUMN dropped_count integer NOT NULL DEFAULT 0,
    -- What looks wrong with the transcript as a whole; the same as in coverage, to be looked for.
    ADD COLUMN flags         text[] NOT NULL DEFAULT '{}';

-- Listings of what looks wrong: few rows of many.
CREATE INDEX media_flagged ON media (discovered_at, media_id) WHERE flags <> '{}';
