-- Steering the queue: pausing it, and seeing what runs where.
--
-- The order of the jobs stands in the job library's own table (see src/queue/place.rs); nothing here is needed to claim.

-- One row while the queue is paused. Under Citus a local or reference table.
CREATE TABLE queue_pause (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    since    timestamptz NOT NULL DEFAULT now(),
    -- Ends by itself at this time; null: when somebody resumes.
    until    timestamptz
);

-- The processes that work, each told by itself every few seconds. What media.worker names. A row that was not renewed
-- for a minute belongs to a process that is dead or cut off.
CREATE TABLE workers (
    worker_id  uuid PRIMARY KEY,
    host       text NOT NULL,
    pid        integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    -- {"<media_id>": {"step": "fetch", "ms": 1234}, …}: the step each item is in, and for how long at seen_at.
    in_hand    jsonb NOT NULL DEFAULT '{}'
);
