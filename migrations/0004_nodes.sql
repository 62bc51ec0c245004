-- Several machines: who they are, and the audio on its way from those that fetch to those that transcribe.

-- The library's own identity: names its objects in a store that other libraries may use as well. One row.
CREATE TABLE library (
    library_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO library DEFAULT VALUES;

-- Audio that was fetched, decoded, and left in the store for whoever transcribes it: while there is a row, an unfinished
-- item waits for a transcriber, else for somebody to fetch it. Written in the transaction that ends the claim it was made
-- under; removed in the one that sets the item done.
CREATE TABLE handovers (
    media_id   uuid PRIMARY KEY REFERENCES media ON DELETE CASCADE,
    -- Of the claim under which it was made; with the library's and the item's identity the name of the object.
    fence      bigint NOT NULL,
    -- Of the object.
    bytes      bigint NOT NULL,
    sha256     bytea NOT NULL,
    -- Of the audio in it: samples at 16 kHz, what to add to a time in it to get the player's, BLAKE3 of the samples.
    samples    bigint NOT NULL,
    offset_ms  bigint NOT NULL,
    audio_hash bytea NOT NULL,
    -- What fetching learned: {"title", "webpage_url", "channel", "published_at", "duration_ms"}.
    metadata   jsonb NOT NULL,
    handed_at  timestamptz NOT NULL DEFAULT now()
);

-- Processes that work on this library (a reference table under Citus). A row goes when its process ends in order, or when
-- what it left was taken over on its own machine; of others the last heartbeat tells.
CREATE TABLE nodes (
    node_id      uuid PRIMARY KEY,
    host         text NOT NULL,
    pid          integer NOT NULL,
    role         text NOT NULL,
    version      text NOT NULL,
    -- What the model runs on; null where none runs.
    device       text,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    -- Since the start: items stored (or handed over, where nothing is stored), items given up, audio of the former.
    items        bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,
    audio_ms     bigint NOT NULL DEFAULT 0
);
