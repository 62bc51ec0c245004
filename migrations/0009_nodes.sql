-- One table of the processes that work instead of two, and captions on their way between machines.

-- What a process has in hand stands with the process. Rows of `workers` were told anew every few seconds: nothing is lost.
ALTER TABLE nodes
    -- {"<media_id>": {"step": "fetch", "ms": 1234}, …}: the step each item is in, and for how long at told_at.
    ADD COLUMN in_hand jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN told_at timestamptz NOT NULL DEFAULT now();
DROP TABLE workers;

-- Captions that people made and that were found while fetching: {"language", "segments": […], "first"}; null where none were
-- wanted or found.
ALTER TABLE handovers ADD COLUMN captions jsonb;
