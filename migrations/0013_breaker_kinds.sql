-- The breaker's rests double for trouble of one kind only: a name that could not be found is not the third refusal in a row.
-- And a network that is away (ours, most likely) is tried again within the half hour, however long it was away.

-- How it went. p_told: fine, trouble (counts as a strike) or refused (opens at once). open_s is how long the breaker
-- stays open from now, null where it is closed; opened is true where this opened it.
CREATE OR REPLACE FUNCTION governor_tell(
    p_site text, p_identity text, p_permit uuid, p_told text, p_strikes integer, rest_s float8, retry_after_s float8,
    p_class text, p_reason text, p_remedy text,
    OUT open_s float8, OUT opened boolean
) LANGUAGE plpgsql AS $$
DECLARE
    s       governor_sites;
    t       timestamptz;
    rests   timestamptz;
    probing boolean;
    longest interval;
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
        -- Opened again soon after it closed, it is still the same trouble; of another kind, it is another.
        IF s.class IS DISTINCT FROM p_class
            OR s.open_until IS NULL AND s.closed_at < t - make_interval(secs => 6 * rest_s)
        THEN
            s.trips := 1;
        ELSIF probing OR s.open_until IS NULL THEN
            s.trips := s.trips + 1;
        END IF;
        longest := CASE WHEN p_class = 'network'
                        THEN greatest(interval '30 minutes', make_interval(secs => rest_s))
                        ELSE interval '1 day' END;
        rests := t + least(make_interval(secs => rest_s * 2 ^ least(s.trips - 1, 20)), longest) * (1 + random() / 10);
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
