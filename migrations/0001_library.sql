-- The library: what is known, what was said, and how to find it again.
--
-- Ready to be distributed from the first day (Citus): media_id is the first column of every key and would be
-- the distribution column; nothing takes its identity from a sequence, because a sequence belongs to one node;
-- foreign keys exist only between tables that would lie side by side (same media_id, same shard).
-- Times on a player's clock are integer milliseconds. Clock times come from the database (`now()`), never from
-- the machine that happens to run a worker.
--
-- The extension `vector` is created by the program before this file runs, so that its absence, its age or a
-- missing permission can be told in words. Nothing else beyond plpgsql is needed.


-- Text search ------------------------------------------------------------------------------------------------
-- The functions have parsed bodies (RETURN, PostgreSQL 14): names in them are bound now, so that they still work
-- under pg_restore, which runs with an empty search_path.

-- The text search configuration for one of Whisper's language codes; `simple` (words as they are) where
-- PostgreSQL brings no stemmer. Estonian came with PostgreSQL 18 and is left out, so that 14 works too.
CREATE FUNCTION spoken_config(language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE language
    WHEN 'en' THEN 'pg_catalog.english'::regconfig
    WHEN 'es' THEN 'pg_catalog.spanish'::regconfig
    WHEN 'de' THEN 'pg_catalog.german'::regconfig
    WHEN 'fr' THEN 'pg_catalog.french'::regconfig
    WHEN 'it' THEN 'pg_catalog.italian'::regconfig
    WHEN 'pt' THEN 'pg_catalog.portuguese'::regconfig
    WHEN 'nl' THEN 'pg_catalog.dutch'::regconfig
    WHEN 'ru' THEN 'pg_catalog.russian'::regconfig
    WHEN 'ar' THEN 'pg_catalog.arabic'::regconfig
    WHEN 'ca' THEN 'pg_catalog.catalan'::regconfig
    WHEN 'da' THEN 'pg_catalog.danish'::regconfig
    WHEN 'el' THEN 'pg_catalog.greek'::regconfig
    WHEN 'eu' THEN 'pg_catalog.basque'::regconfig
    WHEN 'fi' THEN 'pg_catalog.finnish'::regconfig
    WHEN 'hi' THEN 'pg_catalog.hindi'::regconfig
    WHEN 'hu' THEN 'pg_catalog.hungarian'::regconfig
    WHEN 'hy' THEN 'pg_catalog.armenian'::regconfig
    WHEN 'id' THEN 'pg_catalog.indonesian'::regconfig
    WHEN 'lt' THEN 'pg_catalog.lithuanian'::regconfig
    WHEN 'ne' THEN 'pg_catalog.nepali'::regconfig
    WHEN 'no' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'nn' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'ro' THEN 'pg_catalog.romanian'::regconfig
    WHEN 'sr' THEN 'pg_catalog.serbian'::regconfig
    WHEN 'sv' THEN 'pg_catalog.swedish'::regconfig
    WHEN 'ta' THEN 'pg_catalog.tamil'::regconfig
    WHEN 'tr' THEN 'pg_catalog.turkish'::regconfig
    WHEN 'yi' THEN 'pg_catalog.yiddish'::regconfig
    ELSE 'pg_catalog.simple'::regconfig
END;

-- Words without case and accents, as far as PostgreSQL can alone: compatibility decomposition, then the
-- combining marks of Latin, Greek and Cyrillic dropped ("Canción" → "cancion", "ｆｕｌｌ" → "full").
-- Scripts written without spaces get one after every character: the parser would make a whole clause one word,
-- and so a phrase of characters finds any part of it. Plain ASCII, the common case, skips all of that.
CREATE FUNCTION spoken_fold(words text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(words) = char_length(words)
        THEN lower(words)
    ELSE lower(regexp_replace(
            regexp_replace(normalize(words, NFKD), '[\u0300-\u036f]+', '', 'g'),
            '([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])',
            ' \1 ', 'g'))
END;

-- What is indexed: the stems of the row's own language, then the folded words as they stand. The second half
-- answers without knowing the query's language, keeps stop words (so that a sentence of nothing else is found),
-- ignores accents, and is what verbatim phrases are looked up in.
CREATE FUNCTION spoken_tsvector(language text, words text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN spoken_config(language) = 'pg_catalog.simple'::regconfig
        THEN to_tsvector('pg_catalog.simple'::regconfig, spoken_fold(words))
    ELSE to_tsvector(spoken_config(language), words)
             || to_tsvector('pg_catalog.simple'::regconfig, spoken_fold(words))
END;


-- Items ------------------------------------------------------------------------------------------------------

CREATE TABLE media (
    -- UUIDv5 of 'extractor:source_id': the same video found twice is one row.
    media_id        uuid PRIMARY KEY,
    extractor       text NOT NULL,
    source_id       text NOT NULL,
    -- What to fetch: {"kind": "file"|"url"|"page", "at": …}; a path that is not UTF-8 stands as {"at_bytes": hex}.
    locator         jsonb NOT NULL,
    -- What a person reads; a link opens webpage_url where fetching learned one, else this.
    source          text NOT NULL,
    webpage_url     text,
    title           text NOT NULL,
    channel         text,
    published_at    timestamptz,

    state           text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'active', 'done', 'failed')),
    -- Counts claims. Who wants to write results names the fence of the claim; a worker whose item was given to
    -- another one meanwhile (stopped, cut off) finds a higher number, and its write changes nothing.
    fence           bigint NOT NULL DEFAULT 0,
    -- Counts retries asked for by a person; part of the queue's job key, so that a retry is a new job.
    generation      integer NOT NULL DEFAULT 0,
    -- Attempts since the last retry. An attempt that ended with its process is in crashes, not here: killing
    -- the program ten times is no reason to give up ten innocent items.
    attempts        integer NOT NULL DEFAULT 0,
    crashes         integer NOT NULL DEFAULT 0,
    -- Not before this time (only while queued).
    retry_at        timestamptz,
    error_class     text,
    error           text,
    remedy          text,

    -- As the site stated it until the item is done, then as decoded.
    duration_ms     bigint,
    speech_ms       bigint,
    language        text,
    -- The Whisper model of the stored segments, the model of the stored vectors, the number of segments.
    model           text,
    embedding_model text,
    segments        integer,
    -- Who claimed it last.
    worker          text,

    discovered_at   timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now()
);

-- Listings go in the order of discovery.
CREATE INDEX media_discovered ON media (discovered_at, media_id);
-- The reconciler's question, and the list of failures: few rows of many.
CREATE INDEX media_unfinished ON media (state, media_id) WHERE state <> 'done';
-- Lookups by address or path. Hash, because a B-tree refuses keys of more than 2,700 bytes and addresses
-- can be longer.
CREATE INDEX media_source ON media USING hash (source);
CREATE INDEX media_webpage_url ON media USING hash (webpage_url);

-- Every list, argument or path through which an item was found.
CREATE TABLE media_sources (
    media_id   uuid NOT NULL REFERENCES media ON DELETE CASCADE,
    -- UUIDv5 of the text, which may be longer than a B-tree key.
    source_key uuid NOT NULL,
    source     text NOT NULL,
    listed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (media_id, source_key)
);
CREATE INDEX media_sources_key ON media_sources (source_key);

-- Local files whose content was hashed before, so that a second run need not read them again. Looked up by path
-- before the media_id is known, therefore keyed by path: a reference (or local) table under Citus, and no foreign
-- key to the distributed media table. A stale row is harmless: size or time differ, and the file is read again.
CREATE TABLE known_files (
    -- UUIDv5 of the path's bytes: paths may be 4,096 bytes and need not be UTF-8.
    path_key uuid PRIMARY KEY,
    size     bigint NOT NULL,
    mtime_ns bigint NOT NULL,
    media_id uuid NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now()
);


-- What was said ----------------------------------------------------------------------------------------------
-- Written by binary COPY in the transaction that sets the item done; replaced by delete and copy, never updated.

CREATE TABLE segments (
    media_id       uuid NOT NULL REFERENCES media ON DELETE CASCADE,
    -- The Whisper model.
    model_id       text NOT NULL,
    -- Counted from 0 in order of start_ms.
    seq            integer NOT NULL,
    start_ms       bigint NOT NULL,
    end_ms         bigint NOT NULL CHECK (end_ms >= start_ms),
    text           text NOT NULL,
    language       text NOT NULL,
    avg_logprob    real NOT NULL,
    no_speech_prob real NOT NULL,
    tsv            tsvector NOT NULL GENERATED ALWAYS AS (spoken_tsvector(language, text)) STORED,
    PRIMARY KEY (media_id, model_id, seq)
);
CREATE INDEX segments_tsv ON segments USING gin (tsv);

-- Consecutive segments that read as one: what is embedded.
CREATE TABLE passages (
    media_id      uuid NOT NULL REFERENCES media ON DELETE CASCADE,
    model_id      text NOT NULL,
    seq           integer NOT NULL,
    start_ms      bigint NOT NULL,
    end_ms        bigint NOT NULL CHECK (end_ms >= start_ms),
    -- The segments first_segment ≤ seq < end_segment.
    first_segment integer NOT NULL,
    end_segment   integer NOT NULL CHECK (end_segment > first_segment),
    text          text NOT NULL,
    language      text NOT NULL,
    tsv           tsvector NOT NULL GENERATED ALWAYS AS (spoken_tsvector(language, text)) STORED,
    PRIMARY KEY (media_id, model_id, seq)
);
CREATE INDEX passages_tsv ON passages USING gin (tsv);


-- Small tables (reference tables under Citus) ----------------------------------------------------------------

-- One table of vectors per model and dimension, because an index needs one dimension and a search one model:
--   CREATE TABLE embeddings_<model>_<dimension> (media_id uuid, seq integer, embedding halfvec(<dimension>))
-- made by the program when a model is first used, with the key (media_id, seq) of the passage. Searched exactly;
-- an HNSW index is for later, because inserting into a live one slows a backfill to a crawl.
CREATE TABLE embedding_models (
    model_id   text NOT NULL,
    dimension  integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    table_name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model_id, dimension)
);

-- Languages that occur in segments: a query is read in each of them.
CREATE TABLE languages (
    language text PRIMARY KEY
);
