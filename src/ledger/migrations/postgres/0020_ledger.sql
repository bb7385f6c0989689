-- The ledger on PostgreSQL. Times are unix milliseconds, days are days since 1970, kinds are 1 key, 2 account,
-- 3 policy. lot holds the only contended rows; rows are only ever inserted into reservation, settlement and event.
--
-- Locks are taken in one order: directory, lot (by kind and id, so pools last), meta. meta is the last of every
-- transaction that writes it, so its numbers follow the order of commits and whoever follows them misses nothing.

CREATE TABLE meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_version bigint NOT NULL,
    installation uuid NOT NULL,
    cluster text NOT NULL,
    incarnation uuid NOT NULL,
    -- Time never runs backwards here: it is never before this, nor before any beat.
    floor_ms bigint NOT NULL,
    config_epoch bigint NOT NULL DEFAULT 0,
    moved bigint NOT NULL DEFAULT 0,
    events bigint NOT NULL DEFAULT 0,
    -- Whether mail may be charged to this ledger.
    state text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'rebuilding', 'empty', 'restored', 'swapped', 'went_back')),
    -- An id that was given out before this may be given to another name: its ledger was accepted since.
    accepted_at bigint NOT NULL DEFAULT 0
);

-- Which UUID was minted for (kind, namespace UID, name). Only a digest is kept, so purging a name keeps its id.
CREATE TABLE identity (
    digest bytea PRIMARY KEY,
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    id uuid NOT NULL UNIQUE,
    at bigint NOT NULL
);

CREATE TABLE session (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role text NOT NULL,
    name text NOT NULL,
    epoch bigint NOT NULL,
    opened_at bigint NOT NULL,
    closed_at bigint,
    UNIQUE (role, name)
);

-- Every transaction writes one of these, also one that finds its work done: a commit that wrote something waits for
-- the standby, and with it for every commit before it. Several lanes, so that a process's charges and outcomes do not
-- wait for each other.
CREATE TABLE beat (
    session bigint NOT NULL,
    lane smallint NOT NULL,
    seq bigint NOT NULL,
    -- The time of its last transaction, and of the last while the session lived.
    at bigint NOT NULL,
    seen_at bigint NOT NULL,
    PRIMARY KEY (session, lane)
) WITH (fillfactor = 50);

-- What the relays follow by epoch. The limits of a holder are part of its body: there is one truth about them.
CREATE TABLE directory (
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    id uuid NOT NULL,
    epoch bigint NOT NULL,
    removed boolean NOT NULL,
    username text,
    body text NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX directory_epoch ON directory (epoch);
CREATE INDEX directory_username ON directory (username) WHERE username IS NOT NULL;

-- One bucket of one source of one holder.
CREATE TABLE lot (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    holder uuid NOT NULL,
    source text NOT NULL,
    period text NOT NULL,
    valid_from bigint NOT NULL,
    valid_to bigint NOT NULL,
    -- JSON of the calendar that made it: tells a limit of this period from one that waits for the next.
    calendar text NOT NULL,
    part bigint NOT NULL,
    whole bigint NOT NULL,
    granted bigint,
    overhang bigint NOT NULL DEFAULT 0,
    consumed bigint NOT NULL DEFAULT 0,
    overage bigint NOT NULL DEFAULT 0,
    topped_total bigint,
    topped_until bigint,
    -- The beginning of the period that the lot counts, where it is before `valid_from`.
    counts_from bigint,
    -- What its holder had used in that period before `valid_from`, less what was given back of it. It is in `consumed`.
    carried bigint NOT NULL DEFAULT 0 CHECK (carried >= 0),
    -- An edit ended the lot, and nothing is charged to it any more, whatever time it is for a transaction that began before.
    ended boolean NOT NULL DEFAULT false,
    UNIQUE (holder, kind, source, valid_from),
    CHECK (valid_from < valid_to),
    CHECK (overage >= 0),
    CHECK (consumed >= 0 AND (granted IS NULL OR consumed <= greatest(granted, overhang)))
) WITH (fillfactor = 60);

-- The theoretical arrival of a holder's next message, in microseconds; guarded by the lock on its period's lot.
CREATE TABLE tempo (
    kind smallint NOT NULL,
    holder uuid NOT NULL,
    arrival bigint NOT NULL,
    -- When the next message that is given back would come if all came evenly, in microseconds.
    given_back bigint,
    PRIMARY KEY (kind, holder)
) WITH (fillfactor = 60);

-- xid is the writer's transaction: readers that keep a snapshot take each row once, however commits interleave.
CREATE TABLE reservation (
    day integer NOT NULL,
    message uuid NOT NULL,
    key uuid NOT NULL,
    account uuid NOT NULL,
    policy uuid NOT NULL,
    credits bigint NOT NULL CHECK (credits >= 0),
    -- The lots of the period, each charged the credits; then what other lots were charged: lot, amount, lot, amount.
    key_lot bigint NOT NULL,
    account_lot bigint NOT NULL,
    policy_lot bigint NOT NULL,
    more bigint[],
    -- Micro-units of money for a credit at that moment.
    unit_price bigint NOT NULL,
    session bigint NOT NULL,
    epoch bigint NOT NULL,
    at bigint NOT NULL,
    xid bigint NOT NULL,
    PRIMARY KEY (day, message)
) PARTITION BY RANGE (day);
CREATE INDEX reservation_xid ON reservation (xid);
-- For ids whose day no partition was made for.
CREATE TABLE reservation_other PARTITION OF reservation DEFAULT;

-- A second row of a message corrects an `unknown`. Outcomes: 1 relayed, 2 refused, 3 not offered, 4 unknown.
CREATE TABLE settlement (
    day integer NOT NULL,
    message uuid NOT NULL,
    correction boolean NOT NULL,
    outcome smallint NOT NULL CHECK (outcome IN (1, 2, 3, 4)),
    at bigint NOT NULL,
    xid bigint NOT NULL,
    PRIMARY KEY (day, message, correction),
    CHECK (NOT correction OR outcome <> 4)
) PARTITION BY RANGE (day);
CREATE INDEX settlement_xid ON settlement (xid);
CREATE TABLE settlement_other PARTITION OF settlement DEFAULT;

-- The snapshot of the last rollup, as xmin, xmax and what ran between them: what it saw was taken.
CREATE TABLE rolled (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    low bigint NOT NULL,
    high bigint NOT NULL,
    running bigint[] NOT NULL
);
INSERT INTO rolled (low, high, running) VALUES (0, 0, '{}');

-- Reservations that had no outcome when the rollup took them.
CREATE TABLE unsettled (
    message uuid PRIMARY KEY,
    day integer NOT NULL,
    session bigint NOT NULL,
    epoch bigint NOT NULL
);

-- Usage of a lot's period as of the last rollup, beside the lot so that counting never waits for charging.
CREATE TABLE lot_usage (
    lot bigint PRIMARY KEY,
    messages bigint NOT NULL,
    relayed bigint NOT NULL,
    refused bigint NOT NULL,
    not_offered bigint NOT NULL,
    unknown bigint NOT NULL,
    last_sent_at bigint NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE usage_hour (
    hour bigint NOT NULL,
    key uuid NOT NULL,
    account uuid NOT NULL,
    policy uuid NOT NULL,
    messages bigint NOT NULL,
    charged bigint NOT NULL,
    relayed bigint NOT NULL,
    refused bigint NOT NULL,
    not_offered bigint NOT NULL,
    unknown bigint NOT NULL,
    -- Micro-units of money for the credits that were not given back, by the prices at their reservations.
    priced bigint NOT NULL,
    PRIMARY KEY (hour, key, account, policy)
) WITH (fillfactor = 70);

-- The holders whose figures moved, each with the number of its last move.
CREATE TABLE moved (
    kind smallint NOT NULL,
    id uuid NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (kind, id)
) WITH (fillfactor = 70);
CREATE INDEX moved_seq ON moved (seq);

CREATE TABLE event (
    seq bigint PRIMARY KEY,
    at bigint NOT NULL,
    actor text NOT NULL,
    kind text NOT NULL,
    holder_kind smallint,
    holder uuid,
    detail text NOT NULL
);

CREATE FUNCTION keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is only added to';
END $$;
CREATE TRIGGER keep_event BEFORE UPDATE OR DELETE OR TRUNCATE ON event FOR EACH STATEMENT EXECUTE FUNCTION keep_event();

-- Insert-only. What a lot's balance has besides its reservations: `ledger check` counts it with them.
CREATE TABLE adjustment (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lot bigint NOT NULL,
    credits bigint NOT NULL,
    actor text NOT NULL,
    at bigint NOT NULL
);
CREATE INDEX adjustment_lot ON adjustment (lot);

-- By what a billing period is charged, so that a later price changes no closed bill.
CREATE TABLE terms (
    policy uuid NOT NULL,
    period text NOT NULL,
    valid_from bigint NOT NULL,
    valid_to bigint NOT NULL,
    currency text NOT NULL,
    base_price_minor bigint NOT NULL,
    price_per_thousand_minor bigint NOT NULL,
    PRIMARY KEY (policy, period),
    CHECK (valid_from < valid_to)
);

-- Thresholds that were told, each once per period and way. The rows are the memory and the queue at once.
CREATE TABLE notice (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    holder uuid NOT NULL,
    meter text NOT NULL,
    period text NOT NULL,
    threshold smallint NOT NULL CHECK (threshold BETWEEN 0 AND 100),
    -- 'none': remembered and sent nowhere.
    channel text NOT NULL,
    policy uuid NOT NULL,
    granted bigint NOT NULL,
    used bigint NOT NULL,
    at bigint NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    -- When it is due; NULL when it has ended.
    next_at bigint,
    ended text,
    UNIQUE (holder, kind, meter, period, threshold, channel),
    CHECK ((next_at IS NULL) = (ended IS NOT NULL))
);
CREATE INDEX notice_due ON notice (channel, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX notice_ended ON notice (at) WHERE next_at IS NULL;

-- What is left of dropped rows: charged and not given back, of each lot. `ledger check` counts it with the rows.
CREATE TABLE seal (
    lot bigint PRIMARY KEY,
    amount bigint NOT NULL
);

-- Messages whose client was told to come again before it was known what became of them.
-- `message` is the one that was charged; its outcome is in `settlement`. `carrier` is the one whose transaction may be
-- under way, in that session: itself, or a copy that stands in for it. `answered` is the copy that was told that it is
-- relayed. Locked before any other row.
CREATE TABLE fingerprint (
    message uuid PRIMARY KEY,
    day integer NOT NULL,
    digest bytea NOT NULL,
    at bigint NOT NULL,
    carrier uuid,
    session bigint NOT NULL,
    epoch bigint NOT NULL,
    answered uuid,
    -- How often the message was sent again without a charge.
    stand_ins integer NOT NULL DEFAULT 0 CHECK (stand_ins >= 0),
    -- NULL: a day after `at`.
    until bigint
);
CREATE INDEX fingerprint_digest ON fingerprint (digest);
CREATE INDEX fingerprint_at ON fingerprint (at);
-- Finds what is on its way although its client was told to come again.
CREATE INDEX fingerprint_carried ON fingerprint (message) WHERE carrier = message;

-- What relays say of upstreams that they do not ask for a while. Written by the session that saw it, when it changes. What a session says that is over does not count.
CREATE TABLE trouble (
    session bigint NOT NULL,
    policy uuid NOT NULL,
    epoch bigint NOT NULL,
    upstream text NOT NULL,
    fault text NOT NULL CHECK (fault IN ('refuses_us', 'unreachable')),
    why text NOT NULL,
    since bigint NOT NULL,
    PRIMARY KEY (session, policy)
);

-- What each holder has used, so that a limit that begins within its period counts what was used in it before.
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

-- What is known to be used by holders that have no entry yet. Raised when the entry is written. One of `used` and `remaining` is set.
CREATE TABLE floor (
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    holder uuid NOT NULL,
    meter text NOT NULL,
    used bigint,
    remaining bigint,
    -- When so much remained.
    seen_at bigint,
    until bigint NOT NULL,
    PRIMARY KEY (kind, holder, meter),
    CHECK ((used IS NULL) <> (remaining IS NULL)),
    CHECK ((remaining IS NULL) = (seen_at IS NULL))
);

-- How much of an account's mail was given back lately.
-- When the next one would come if all came evenly, in microseconds; so many in an hour when one was last.
CREATE TABLE refusal (
    account uuid PRIMARY KEY,
    arrival bigint NOT NULL,
    per_hour bigint NOT NULL
);
CREATE INDEX refusal_arrival ON refusal (arrival);

-- Messages that relays refused for their sender.
CREATE TABLE denied_sender (
    key uuid NOT NULL,
    reason text NOT NULL,
    -- Since the key was made, and as many of them as were reported.
    messages bigint NOT NULL,
    reported bigint NOT NULL,
    -- Of the last one; empty where it had none.
    domain text NOT NULL,
    last_at bigint NOT NULL,
    -- When they may be reported at the earliest.
    due_at bigint NOT NULL,
    PRIMARY KEY (key, reason)
);
CREATE INDEX denied_sender_due ON denied_sender (due_at) WHERE messages > reported;

-- Networks that keys logged in from.
CREATE TABLE login_network (
    key uuid NOT NULL,
    network text NOT NULL,
    -- Of the first login from it.
    at bigint NOT NULL,
    -- Of the last one.
    seen_at bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (key, network)
);

-- The ledger's time: the clock's (the server's where none is given), never before any transaction's.
CREATE FUNCTION ledger_now(p_clock bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT greatest(
        coalesce(p_clock, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
        (SELECT max(at) FROM beat),
        (SELECT floor_ms FROM meta))
$$;

-- Begins every transaction that writes: says that the session lives, or finds that it was given up.
CREATE FUNCTION enter(
    p_session bigint, p_epoch bigint, p_lane smallint, p_clock bigint,
    OUT now_ms bigint, OUT fenced boolean, OUT config_epoch bigint, OUT state text
) LANGUAGE plpgsql AS $$
BEGIN
    now_ms := ledger_now(p_clock);
    fenced := NOT EXISTS (SELECT FROM session s WHERE s.id = p_session AND s.epoch = p_epoch AND s.closed_at IS NULL);
    INSERT INTO beat AS b (session, lane, seq, at, seen_at)
        VALUES (p_session, p_lane, 1, now_ms, CASE WHEN fenced THEN 0 ELSE now_ms END)
        ON CONFLICT (session, lane) DO UPDATE SET
            seq = b.seq + 1, at = greatest(b.at, excluded.at), seen_at = greatest(b.seen_at, excluded.seen_at);
    SELECT m.config_epoch, m.state INTO config_epoch, state FROM meta m;
END $$;

-- Charges a batch that fits, or fails as a whole: FR001 the session was given up, FR002 a row of the directory is not
-- what the caller knows, FR003 a lot is short, closed or not begun or ended, or a key has expired, FR004 mail may not
-- be charged to this ledger. p_lot is in locking order.
CREATE FUNCTION reserve(
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

-- Writes outcomes that give nothing back, of messages that have none. What was never reserved is left out.
CREATE FUNCTION settle(
    p_session bigint, p_epoch bigint, p_lane smallint, p_clock bigint,
    p_day integer[], p_message uuid[], p_outcome smallint[]
) RETURNS void LANGUAGE plpgsql SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now bigint;
    v_xid bigint := pg_current_xact_id()::text::bigint;
BEGIN
    SELECT e.now_ms INTO v_now FROM enter(p_session, p_epoch, p_lane, p_clock) e;
    INSERT INTO settlement (day, message, correction, outcome, at, xid)
        SELECT x.day, x.message, false, x.outcome, v_now, v_xid
        FROM unnest(p_day, p_message, p_outcome) x(day, message, outcome)
        JOIN reservation v ON v.day = x.day AND v.message = x.message;
END $$;

-- Takes what committed since the last rollup into the counters, each row once: the snapshot that it was read in is
-- written in the same transaction. Returns how many rows that were.
CREATE FUNCTION rollup() RETURNS bigint LANGUAGE plpgsql AS $$
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
