-- Schema 2: old days are sealed and dropped. It only adds: a binary of schema 1 works on it and drops nothing.

-- What is left of dropped rows: charged and not given back, of each lot. `ledger check` counts it with the rows.
CREATE TABLE seal (
    lot bigint PRIMARY KEY,
    amount bigint NOT NULL
);

-- Makes the partitions of days that have none. A day that has rows already keeps them where they are.
CREATE FUNCTION make_days(p_from integer, p_to integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_made integer := 0;
BEGIN
    FOR v_day IN p_from..p_to LOOP
        CONTINUE WHEN to_regclass(format('reservation_%s', v_day)) IS NOT NULL
            OR EXISTS (SELECT FROM reservation_other WHERE day = v_day)
            OR EXISTS (SELECT FROM settlement_other WHERE day = v_day);
        EXECUTE format('CREATE TABLE reservation_%s PARTITION OF reservation FOR VALUES FROM (%s) TO (%s)',
            v_day, v_day, v_day + 1);
        EXECUTE format('CREATE TABLE settlement_%s PARTITION OF settlement FOR VALUES FROM (%s) TO (%s)',
            v_day, v_day, v_day + 1);
        v_made := v_made + 1;
    END LOOP;
    RETURN v_made;
END $$;

-- The days that have partitions, oldest first.
CREATE FUNCTION made_days() RETURNS SETOF integer LANGUAGE sql AS $$
    SELECT substring(c.relname FROM '[0-9]+$')::integer
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'reservation'::regclass AND c.relname ~ '^reservation_[0-9]+$' ORDER BY 1
$$;

-- Seals a day and drops its rows, once the rollup has taken all of them; NULL where it has not. Whoever reads goes on
-- meanwhile; whoever settles a message of that day waits, and finds it gone.
CREATE FUNCTION retire_day(p_day integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    c rolled;
    v_messages bigint;
BEGIN
    EXECUTE format('LOCK TABLE reservation_%1$s, settlement_%1$s IN SHARE ROW EXCLUSIVE MODE', p_day);
    SELECT * INTO STRICT c FROM rolled;
    IF EXISTS (SELECT FROM unsettled u WHERE u.day = p_day)
        OR EXISTS (SELECT FROM reservation v
            WHERE v.day = p_day AND v.xid >= c.low AND (v.xid >= c.high OR v.xid = ANY (c.running)))
        OR EXISTS (SELECT FROM settlement s
            WHERE s.day = p_day AND s.xid >= c.low AND (s.xid >= c.high OR s.xid = ANY (c.running)))
    THEN
        RETURN NULL;
    END IF;
    WITH final AS (
        SELECT DISTINCT ON (message) message, outcome FROM settlement WHERE day = p_day
        ORDER BY message, correction DESC
    ), kept AS (
        SELECT v.* FROM reservation v LEFT JOIN final f ON f.message = v.message
        WHERE v.day = p_day AND (f.outcome IS NULL OR f.outcome NOT IN (2, 3))
    )
    INSERT INTO seal AS s (lot, amount)
        SELECT x.lot, sum(x.amount) FROM (
            SELECT y.lot, k.credits AS amount FROM kept k
                CROSS JOIN LATERAL (VALUES (k.key_lot), (k.account_lot), (k.policy_lot)) y(lot)
            UNION ALL
            SELECT k.more[i], k.more[i + 1] FROM kept k
                CROSS JOIN LATERAL generate_series(1, cardinality(k.more), 2) i
        ) x GROUP BY x.lot
        ON CONFLICT (lot) DO UPDATE SET amount = s.amount + excluded.amount;
    SELECT count(*) INTO v_messages FROM reservation WHERE day = p_day;
    EXECUTE format('DROP TABLE reservation_%1$s, settlement_%1$s', p_day);
    RETURN v_messages;
END $$;
