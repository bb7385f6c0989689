-- Schema 6: what each holder has used, by quarters of an hour, so that a limit that begins within its period counts what
-- was used in it before. It only adds; a binary of schema 5 works on it, and counts no such thing.

-- Credits charged and not given back, by the quarter of their reservation; the rollup moves it.
CREATE TABLE used_hour (
    hour bigint NOT NULL,
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    holder uuid NOT NULL,
    q1 bigint NOT NULL,
    q2 bigint NOT NULL,
    q3 bigint NOT NULL,
    q4 bigint NOT NULL,
    PRIMARY KEY (hour, kind, holder)
) WITH (fillfactor = 70);
-- Of what was counted before only the hour is known: it counts for the last quarter, rather too much than too little.
INSERT INTO used_hour (hour, kind, holder, q1, q2, q3, q4)
    SELECT hour, x.kind::smallint, x.id, 0, 0, 0, sum(charged - refused - not_offered)
    FROM usage_hour CROSS JOIN LATERAL (VALUES (1, key), (2, account), (3, policy)) x(kind, id) GROUP BY 1, 2, 3;

-- `counts_from` is the beginning of the period that a lot counts, where it is before `valid_from`; `carried` what its
-- holder had used in that period before `valid_from`, less what was given back of it (it is in `consumed`). `ended`: an
-- edit ended it, and nothing is charged to it any more, whatever time it is for a transaction that began before.
ALTER TABLE lot
    ADD COLUMN counts_from bigint,
    ADD COLUMN carried bigint NOT NULL DEFAULT 0 CHECK (carried >= 0),
    ADD COLUMN ended boolean NOT NULL DEFAULT false;

-- As before, and nothing is charged to a lot that an edit has ended.
CREATE OR REPLACE FUNCTION reserve(
    p_session bigint, p_epoch bigint, p_lane smallint, p_clock bigint, p_until bigint, p_config bigint,
    p_lot bigint[], p_delta bigint[], p_over boolean[],
    p_day integer[], p_message uuid[], p_key uuid[], p_account uuid[], p_policy uuid[], p_credits bigint[],
    p_unit_price bigint[],
    p_key_lot bigint[], p_account_lot bigint[], p_policy_lot bigint[], p_more bigint[], p_from integer[], p_to integer[],
    OUT now_ms bigint, OUT config_epoch bigint
) LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_fenced boolean;
    v_state text;
    v_xid bigint := pg_current_xact_id()::text::bigint;
    v_written bigint;
BEGIN
    SELECT e.now_ms, e.fenced, e.config_epoch, e.state INTO now_ms, v_fenced, config_epoch, v_state
        FROM enter(p_session, p_epoch, p_lane, p_clock) e;
    IF v_fenced THEN
        RAISE EXCEPTION 'the session was given up' USING ERRCODE = 'FR001';
    END IF;
    IF v_state <> 'open' THEN
        RAISE EXCEPTION 'the ledger is held' USING ERRCODE = 'FR004';
    END IF;
    IF config_epoch <> p_config AND EXISTS (
        SELECT FROM directory d WHERE d.epoch > p_config AND d.id = ANY (p_key || p_account || p_policy)
    ) THEN
        RAISE EXCEPTION 'the directory changed' USING ERRCODE = 'FR002';
    END IF;
    IF now_ms >= p_until THEN
        RAISE EXCEPTION 'a key expired' USING ERRCODE = 'FR003';
    END IF;
    INSERT INTO reservation (day, message, key, account, policy, credits, key_lot, account_lot, policy_lot, more,
            unit_price, session, epoch, at, xid)
        SELECT x.day, x.message, x.key, x.account, x.policy, x.credits, x.key_lot, x.account_lot, x.policy_lot,
            CASE WHEN x.first <= x.last THEN p_more[x.first:x.last] END, x.unit_price, p_session, p_epoch, now_ms, v_xid
        FROM unnest(p_day, p_message, p_key, p_account, p_policy, p_credits, p_key_lot, p_account_lot, p_policy_lot,
            p_from, p_to, p_unit_price)
            x(day, message, key, account, policy, credits, key_lot, account_lot, policy_lot, first, last, unit_price);
    UPDATE lot l SET
            consumed = l.consumed + least(a.delta, greatest(coalesce(l.granted - l.consumed, a.delta), 0)),
            overage = l.overage + a.delta - least(a.delta, greatest(coalesce(l.granted - l.consumed, a.delta), 0))
        FROM unnest(p_lot, p_delta, p_over) a(id, delta, over)
        WHERE l.id = a.id AND l.valid_from <= now_ms AND now_ms < l.valid_to AND NOT l.ended
            AND (l.granted IS NULL OR a.over OR l.consumed + a.delta <= l.granted);
    GET DIAGNOSTICS v_written = ROW_COUNT;
    IF v_written <> cardinality(p_lot) THEN
        RAISE EXCEPTION 'a lot is short' USING ERRCODE = 'FR003';
    END IF;
END $$;

-- As before, and what each holder has used is counted too.
CREATE OR REPLACE FUNCTION rollup() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    c rolled;
    v_snapshot pg_snapshot;
    v_taken bigint;
    v_kinds smallint[];
    v_ids uuid[];
    v_moved bigint;
BEGIN
    SELECT * INTO STRICT c FROM rolled FOR UPDATE;
    WITH reserved AS MATERIALIZED (
        SELECT v.* FROM reservation v WHERE v.xid >= c.low AND (v.xid >= c.high OR v.xid = ANY (c.running))
    ), settled AS MATERIALIZED (
        SELECT v.message, v.key, v.account, v.policy, v.credits, v.key_lot, v.account_lot, v.policy_lot, v.at,
            v.unit_price, s.correction, s.outcome, s.at AS settled_at
        FROM settlement s JOIN reservation v ON v.day = s.day AND v.message = s.message
        WHERE s.xid >= c.low AND (s.xid >= c.high OR s.xid = ANY (c.running))
    ), moves AS MATERIALIZED (
        SELECT at, key, account, policy, key_lot, account_lot, policy_lot,
            1 AS reserved, 1 AS messages, credits AS charged, 0 AS relayed, 0 AS refused, 0 AS not_offered,
            0 AS unknown, 0 AS sent_at, credits * unit_price AS priced
        FROM reserved
        UNION ALL
        SELECT at, key, account, policy, key_lot, account_lot, policy_lot,
            0, CASE WHEN outcome IN (2, 3) THEN -1 ELSE 0 END, 0,
            CASE WHEN outcome = 1 THEN credits ELSE 0 END,
            CASE WHEN outcome = 2 THEN credits ELSE 0 END,
            CASE WHEN outcome = 3 THEN credits ELSE 0 END,
            CASE WHEN outcome = 4 THEN credits ELSE 0 END - CASE WHEN correction THEN credits ELSE 0 END,
            CASE WHEN outcome = 1 THEN settled_at ELSE 0 END,
            CASE WHEN outcome IN (2, 3) THEN -credits * unit_price ELSE 0 END
        FROM settled
    ), hours AS (
        INSERT INTO usage_hour AS u
                (hour, key, account, policy, messages, charged, relayed, refused, not_offered, unknown,
                priced)
            SELECT at / 3600000 * 3600000, key, account, policy, sum(reserved), sum(charged), sum(relayed),
                sum(refused), sum(not_offered), sum(unknown), sum(priced)
            FROM moves GROUP BY 1, 2, 3, 4
            ON CONFLICT (hour, key, account, policy) DO UPDATE SET
                messages = u.messages + excluded.messages, charged = u.charged + excluded.charged,
                relayed = u.relayed + excluded.relayed, refused = u.refused + excluded.refused,
                not_offered = u.not_offered + excluded.not_offered, unknown = u.unknown + excluded.unknown,
                priced = u.priced + excluded.priced
    ), lots AS (
        INSERT INTO lot_usage AS u (lot, messages, relayed, refused, not_offered, unknown, last_sent_at)
            SELECT x.lot, sum(messages), sum(relayed), sum(refused), sum(not_offered), sum(unknown), max(sent_at)
            FROM moves CROSS JOIN LATERAL (VALUES (key_lot), (account_lot), (policy_lot)) x(lot) GROUP BY x.lot
            ON CONFLICT (lot) DO UPDATE SET
                messages = u.messages + excluded.messages, relayed = u.relayed + excluded.relayed,
                refused = u.refused + excluded.refused, not_offered = u.not_offered + excluded.not_offered,
                unknown = u.unknown + excluded.unknown, last_sent_at = greatest(u.last_sent_at, excluded.last_sent_at)
    ), used AS (
        INSERT INTO used_hour AS u (hour, kind, holder, q1, q2, q3, q4)
            SELECT at / 3600000 * 3600000, x.kind::smallint, x.id,
                sum(CASE at / 900000 % 4 WHEN 0 THEN used ELSE 0 END), sum(CASE at / 900000 % 4 WHEN 1 THEN used ELSE 0 END),
                sum(CASE at / 900000 % 4 WHEN 2 THEN used ELSE 0 END), sum(CASE at / 900000 % 4 WHEN 3 THEN used ELSE 0 END)
            FROM (SELECT at, key, account, policy, charged - refused - not_offered AS used FROM moves) m
                CROSS JOIN LATERAL (VALUES (1, key), (2, account), (3, policy)) x(kind, id)
            WHERE used <> 0 GROUP BY 1, 2, 3
            ON CONFLICT (hour, kind, holder) DO UPDATE SET
                q1 = u.q1 + excluded.q1, q2 = u.q2 + excluded.q2, q3 = u.q3 + excluded.q3, q4 = u.q4 + excluded.q4
    ), opened AS (
        INSERT INTO unsettled (message, day, session, epoch)
            SELECT v.message, v.day, v.session, v.epoch FROM reserved v
            WHERE NOT EXISTS (SELECT FROM settlement s WHERE s.day = v.day AND s.message = v.message)
    ), closed AS (
        DELETE FROM unsettled u USING settled s WHERE u.message = s.message
    ), holders AS (
        SELECT DISTINCT x.kind::smallint AS kind, x.id
        FROM moves CROSS JOIN LATERAL (VALUES (1, key), (2, account), (3, policy)) x(kind, id)
    )
    SELECT pg_current_snapshot(), (SELECT count(*) FROM moves),
            (SELECT array_agg(kind ORDER BY kind, id) FROM holders), (SELECT array_agg(id ORDER BY kind, id) FROM holders)
        INTO v_snapshot, v_taken, v_kinds, v_ids;
    UPDATE rolled SET
        low = pg_snapshot_xmin(v_snapshot)::text::bigint,
        high = pg_snapshot_xmax(v_snapshot)::text::bigint,
        running = ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(v_snapshot) x);
    IF v_taken > 0 THEN
        UPDATE meta SET moved = moved + cardinality(v_ids) RETURNING moved - cardinality(v_ids) INTO v_moved;
        INSERT INTO moved (kind, id, seq)
            SELECT x.kind, x.id, v_moved + x.n FROM unnest(v_kinds, v_ids) WITH ORDINALITY x(kind, id, n)
            ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq;
    END IF;
    RETURN v_taken;
END $$;
