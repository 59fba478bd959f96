-- Texts that people search for stand in columns of their own, without what Postgres cannot store (NUL). The
-- record itself is kept byte for byte, so that it reads as it did in NATS.

-- How far each stream has been copied. Moves in the transaction that stores the rows.
CREATE TABLE positions (
    stream text PRIMARY KEY,
    sequence bigint NOT NULL
);

CREATE TABLE runs (
    id text COLLATE "C" PRIMARY KEY,
    function text NOT NULL,
    queue text NOT NULL,
    status text NOT NULL,
    attempt integer NOT NULL,
    event_id text NOT NULL,
    event_name text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    error text,
    sequence bigint NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    state bytea NOT NULL
);
CREATE INDEX runs_by_time ON runs (started_at DESC, id DESC);
CREATE INDEX runs_by_status ON runs (status, started_at DESC, id DESC);
CREATE INDEX runs_by_function ON runs (function, started_at DESC, id DESC);
CREATE INDEX runs_by_event ON runs USING hash (event_id);
CREATE INDEX runs_by_event_name ON runs (event_name, started_at DESC);

CREATE TABLE steps (
    run_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    attempt integer NOT NULL,
    finished_at timestamptz NOT NULL,
    error text,
    sequence bigint NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (run_id, key)
);
CREATE INDEX steps_that_failed ON steps (finished_at DESC) WHERE status = 'failed';

-- A run's triggering event where the journal has it ("input"), and how its passes ended ("outcome.3").
CREATE TABLE run_records (
    run_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    stored_at timestamptz NOT NULL,
    sequence bigint NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (run_id, key)
);

CREATE TABLE events (
    sequence bigint NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    stored_at timestamptz NOT NULL,
    record bytea NOT NULL,
    -- An EVENTS stream that was made anew counts from one again.
    PRIMARY KEY (sequence, stored_at)
);
CREATE INDEX events_by_id ON events USING hash (id);
CREATE INDEX events_by_name ON events (name, sequence DESC);
CREATE INDEX events_by_time ON events (stored_at DESC);

-- Parts of errors are found by ILIKE where the extension pg_trgm can be had, else words of them by @@.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;
    CREATE INDEX runs_by_error ON runs USING gin (error public.gin_trgm_ops) WHERE error IS NOT NULL;
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file OR undefined_object
    OR invalid_schema_name OR unique_violation THEN
    CREATE INDEX runs_by_error ON runs USING gin (to_tsvector('simple', error)) WHERE error IS NOT NULL;
END $$;
