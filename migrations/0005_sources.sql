-- Subscriptions: what is looked at again and again, what was seen there, and what became of it.

-- One row for each. Small: a reference table under Citus.
CREATE TABLE sources (
    -- UUIDv5 of the address or path: adding it twice is adding it once.
    source_id     uuid PRIMARY KEY,
    -- What a person calls it.
    name          text NOT NULL UNIQUE,
    -- Address or absolute path.
    source        text NOT NULL,
    -- Found out by the first look; null until then.
    kind          text CHECK (kind IN ('feed', 'list', 'folder')),
    every_s       bigint NOT NULL CHECK (every_s >= 1),
    -- {"since": "2026-01-31", "matching": regex, "shorts": bool, "live": bool, "members": bool}; what is absent is not asked.
    rules         jsonb NOT NULL DEFAULT '{}',
    -- New items taken on after one check; null: all. allowance is what is left of it until the next check.
    at_a_time     integer CHECK (at_a_time > 0),
    allowance     integer,
    -- Wishes for its items.
    language      text,
    priority      smallint NOT NULL DEFAULT 0,

    paused        boolean NOT NULL DEFAULT false,
    next_due      timestamptz NOT NULL DEFAULT now(),
    -- Counts checks begun. A check that lost its lock (the connection broke) finds a higher number, and what it writes
    -- changes nothing.
    checks        bigint NOT NULL DEFAULT 0,
    checked_at    timestamptz,
    -- When all of it was listed last.
    full_at       timestamptz,
    -- What the server calls the state of the feed that we know.
    etag          text,
    last_modified text,

    -- How the last check went, in words; of a failed one the class, message and remedy.
    result        text,
    failures      integer NOT NULL DEFAULT 0,
    error_class   text,
    error         text,
    remedy        text,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- What was seen in a source, so that it is looked at once. Written in the transaction that moves the source's next_due
-- and validators: what a server will not tell again is not lost.
CREATE TABLE source_entries (
    -- What it is known by before anything is read: the item, or of a file the identity of its path.
    media_id     uuid NOT NULL,
    source_id    uuid NOT NULL,
    -- The item.
    item_id      uuid NOT NULL,
    -- ready: to be taken on when limits allow. taken: it is (or was) in media. left: not wanted, with the reason.
    -- waiting: to be looked at again from look_at, with the reason. opened: a page that led to other entries.
    verdict      text NOT NULL CHECK (verdict IN ('ready', 'taken', 'left', 'waiting', 'opened')),
    reason       text,
    look_at      timestamptz,
    title        text NOT NULL,
    -- The item as it will be taken on; kept while ready or waiting.
    item         jsonb,
    published_at timestamptz,
    -- Place in its list when it was first seen, 0 the first.
    place        integer NOT NULL DEFAULT 0,
    -- Of a file: while these stay, it is not opened again.
    size         bigint,
    mtime_ns     bigint,
    seen_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (media_id, source_id)
);
CREATE INDEX source_entries_source ON source_entries (source_id, verdict);
-- What is to be done: few rows of many.
CREATE INDEX source_entries_ready ON source_entries (source_id, published_at) WHERE verdict = 'ready';

-- The language that was asked for when the item was taken on; null: as configured.
ALTER TABLE media ADD COLUMN language_wanted text;
