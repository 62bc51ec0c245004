-- How hard each site may be asked, and what it answered: the ledger that all processes on this database share, so that
-- neither a restart nor a second machine doubles the pace.
--
-- A key is a site (its registrable name; the names of one service are one site) and an identity (the hash of the
-- cookies that are sent, or `none`). Limits are not stored: every process brings its own, and the strictest holds as
-- long as it asks. Clock times are clock_timestamp(): several questions may be asked in one transaction, and a
-- question may have waited for the row.

CREATE TABLE governor_sites (
    site           text NOT NULL,
    identity       text NOT NULL,
    -- The next extraction or download may not begin before.
    next_at        timestamptz NOT NULL DEFAULT '-infinity',
    -- Turns are given out up to here: who is put off comes after those who were put off before.
    promised_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Troubles in a row (5xx, timeouts, names not found, media refused).
    strikes        integer NOT NULL DEFAULT 0,
    -- The breaker: null is closed. After open_until one may try (the probe); its success closes, its failure opens anew.
    open_until     timestamptz,
    closed_at      timestamptz,
    -- Openings in a row: each rests twice as long as the one before.
    trips          integer NOT NULL DEFAULT 0,
    probe          uuid,
    probe_until    timestamptz,
    -- Why it opened, for people.
    class          text,
    reason         text,
    remedy         text,
    PRIMARY KEY (site, identity)
);

-- What was granted, by the second: enough to count any window exactly, and at most 3,600 rows an hour.
CREATE TABLE governor_ledger (
    site     text NOT NULL,
    identity text NOT NULL,
    second   timestamptz NOT NULL,
    videos   integer NOT NULL,
    requests integer NOT NULL,
    PRIMARY KEY (site, identity, second)
);

-- Downloads that run. Renewed while they do; what a dead process held lapses.
CREATE TABLE governor_downloads (
    site     text NOT NULL,
    identity text NOT NULL,
    permit   uuid NOT NULL,
    worker   uuid NOT NULL,
    until    timestamptz NOT NULL,
    PRIMARY KEY (site, identity, permit)
);

-- How often a site refused an item's media although it showed its page.
CREATE TABLE governor_refusals (
    media_id uuid PRIMARY KEY,
    times    integer NOT NULL,
    last_at  timestamptz NOT NULL
);

-- May it begin? Grants and notes, or tells how long to wait and why. The row of the site is locked for this one
-- statement only.
--
-- p_video: a video (counts as one, takes one of the downloads); p_spaced: keeps the distance to the one before;
-- p_requests: requests to note now; p_headroom: requests that must be left. A maximum of 0 is none.
CREATE FUNCTION governor_ask(
    p_site text, p_identity text, p_permit uuid, p_worker uuid, p_video boolean, p_spaced boolean,
    p_requests integer, p_headroom integer, max_videos integer, max_requests integer, max_downloads integer,
    window_s float8, spacing_s float8, lease_s float8,
    OUT wait_s float8, OUT why text, OUT said text, OUT advice text, OUT trial boolean
) LANGUAGE plpgsql AS $$
DECLARE
    s      governor_sites;
    t      timestamptz;
    due    timestamptz;
    used   bigint;
    oldest timestamptz;
BEGIN
    INSERT INTO governor_sites (site, identity) VALUES (p_site, p_identity) ON CONFLICT DO NOTHING;
    SELECT * INTO s FROM governor_sites g WHERE g.site = p_site AND g.identity = p_identity FOR UPDATE;
    t := clock_timestamp();
    wait_s := 0;
    trial := false;

    IF s.open_until IS NOT NULL AND s.probe IS DISTINCT FROM p_permit THEN
        IF s.open_until > t THEN
            due := s.open_until;
            why := 'breaker';
        ELSIF s.probe IS NOT NULL AND s.probe_until > t THEN
            -- The probe is out; how it ends is usually known much sooner than its time is over.
            due := least(s.probe_until, t + interval '10 seconds');
            why := 'probe';
        END IF;
        IF why IS NOT NULL THEN
            said := s.reason;
            advice := s.remedy;
        END IF;
    END IF;

    IF why IS NULL AND p_video AND max_downloads > 0 THEN
        DELETE FROM governor_downloads d WHERE d.site = p_site AND d.identity = p_identity AND d.until < t;
        SELECT count(*) INTO used FROM governor_downloads d WHERE d.site = p_site AND d.identity = p_identity;
        IF used >= max_downloads THEN
            -- Nobody knows when one ends.
            due := t + interval '3 seconds';
            why := 'downloads';
        END IF;
    END IF;

    IF why IS NULL AND p_spaced AND s.next_at > t THEN
        due := s.next_at;
        why := 'interval';
    END IF;

    IF why IS NULL AND p_video AND max_videos > 0 THEN
        SELECT coalesce(sum(l.videos), 0), min(l.second) FILTER (WHERE l.videos > 0) INTO used, oldest
        FROM governor_ledger l
        WHERE l.site = p_site AND l.identity = p_identity AND l.second > t - make_interval(secs => window_s + 1);
        IF used >= max_videos THEN
            due := oldest + make_interval(secs => window_s + 1);
            why := 'videos';
        END IF;
    END IF;

    IF why IS NULL AND max_requests > 0 THEN
        SELECT coalesce(sum(l.requests), 0), min(l.second) FILTER (WHERE l.requests > 0) INTO used, oldest
        FROM governor_ledger l
        WHERE l.site = p_site AND l.identity = p_identity AND l.second > t - make_interval(secs => window_s + 1);
        IF used + greatest(p_requests, p_headroom) > max_requests THEN
            due := coalesce(oldest, t) + make_interval(secs => window_s + 1);
            why := 'requests';
        END IF;
    END IF;

    IF why IS NOT NULL THEN
        wait_s := greatest(0.05, extract(epoch FROM due - t));
        RETURN;
    END IF;

    INSERT INTO governor_ledger AS l (site, identity, second, videos, requests)
    VALUES (p_site, p_identity, date_trunc('second', t), p_video::integer, p_requests)
    ON CONFLICT (site, identity, second)
    DO UPDATE SET videos = l.videos + excluded.videos, requests = l.requests + excluded.requests;
    IF p_video THEN
        INSERT INTO governor_downloads (site, identity, permit, worker, until)
        VALUES (p_site, p_identity, p_permit, p_worker, t + make_interval(secs => lease_s));
    END IF;
    trial := s.open_until IS NOT NULL AND s.probe IS DISTINCT FROM p_permit;
    IF trial OR p_spaced THEN
        UPDATE governor_sites g SET
            next_at = CASE WHEN p_spaced THEN t + make_interval(secs => spacing_s) ELSE g.next_at END,
            probe = CASE WHEN trial THEN p_permit ELSE g.probe END,
            probe_until = CASE WHEN trial THEN t + interval '15 minutes' ELSE g.probe_until END
        WHERE g.site = p_site AND g.identity = p_identity;
    END IF;
    -- What no window reaches any more.
    IF random() < 0.02 THEN
        DELETE FROM governor_ledger l
        WHERE l.site = p_site AND l.identity = p_identity
          AND l.second < t - greatest(make_interval(secs => window_s), interval '1 hour') - interval '1 minute';
    END IF;
END $$;

-- How it went. p_told: fine, trouble (counts as a strike) or refused (opens at once). open_s is how long the breaker
-- stays open from now, null where it is closed; opened is true where this opened it.
CREATE FUNCTION governor_tell(
    p_site text, p_identity text, p_permit uuid, p_told text, p_strikes integer, rest_s float8, retry_after_s float8,
    p_class text, p_reason text, p_remedy text,
    OUT open_s float8, OUT opened boolean
) LANGUAGE plpgsql AS $$
DECLARE
    s       governor_sites;
    t       timestamptz;
    rests   timestamptz;
    probing boolean;
BEGIN
    INSERT INTO governor_sites (site, identity) VALUES (p_site, p_identity) ON CONFLICT DO NOTHING;
    SELECT * INTO s FROM governor_sites g WHERE g.site = p_site AND g.identity = p_identity FOR UPDATE;
    t := clock_timestamp();
    opened := false;
    probing := s.open_until IS NOT NULL AND s.probe IS NOT DISTINCT FROM p_permit AND p_permit IS NOT NULL;

    IF p_told = 'fine' THEN
        IF s.open_until IS NULL THEN
            UPDATE governor_sites g SET strikes = 0
            WHERE g.site = p_site AND g.identity = p_identity AND g.strikes > 0;
        ELSIF probing THEN
            UPDATE governor_sites g SET open_until = NULL, probe = NULL, probe_until = NULL, strikes = 0, closed_at = t
            WHERE g.site = p_site AND g.identity = p_identity;
            RETURN;
        END IF;
        -- What began before it opened proves nothing.
    ELSIF s.open_until > t THEN
        -- Others that were on their way when it opened: no longer rest for that, unless the site asks for it.
        s.open_until := greatest(s.open_until, t + make_interval(secs => retry_after_s));
        UPDATE governor_sites g SET open_until = s.open_until WHERE g.site = p_site AND g.identity = p_identity;
    ELSIF p_told = 'refused' OR probing OR s.open_until IS NOT NULL OR s.strikes + 1 >= p_strikes THEN
        -- Opened again soon after it closed, it is still the same trouble.
        IF s.open_until IS NULL AND s.closed_at < t - make_interval(secs => 6 * rest_s) THEN
            s.trips := 0;
        END IF;
        IF probing OR s.open_until IS NULL THEN
            s.trips := s.trips + 1;
        END IF;
        rests := t + least(make_interval(secs => rest_s * 2 ^ least(s.trips - 1, 20)), interval '1 day') * (1 + random() / 10);
        rests := greatest(rests, t + make_interval(secs => retry_after_s));
        UPDATE governor_sites g SET
            open_until = rests, trips = s.trips, strikes = 0, probe = NULL, probe_until = NULL,
            class = p_class, reason = p_reason, remedy = p_remedy
        WHERE g.site = p_site AND g.identity = p_identity;
        s.open_until := rests;
        opened := true;
    ELSE
        UPDATE governor_sites g SET strikes = g.strikes + 1 WHERE g.site = p_site AND g.identity = p_identity;
    END IF;
    open_s := extract(epoch FROM s.open_until - t);
END $$;
