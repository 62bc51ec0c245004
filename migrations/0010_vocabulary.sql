-- The words of the library, so that a search can tell a word that nobody says from one that is spelt differently.
--
-- Filled by searches that meet an unknown word (and by whoever brings many items in), from items that were finished since;
-- writers of transcripts are not slowed down by it. A local or reference table under Citus.
CREATE TABLE vocabulary (
    -- As spoken_fold writes it: lower case, without accents. Letters only, three or more.
    word text PRIMARY KEY,
    -- Segments in which it was said, more or less: an item that is done again counts again.
    said bigint NOT NULL
);

-- finished_at of the results whose words are known.
ALTER TABLE media ADD COLUMN words_known_at timestamptz;
-- The items whose words are to be learnt: few rows of many.
CREATE INDEX media_words_unknown ON media (media_id)
    WHERE state = 'done' AND words_known_at IS DISTINCT FROM finished_at;
