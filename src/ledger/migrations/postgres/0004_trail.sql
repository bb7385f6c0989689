-- Schema 4: the audit trail is only added to, whoever writes. It only guards: a binary of schema 3 never did otherwise.
CREATE FUNCTION keep_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is only added to';
END $$;
CREATE TRIGGER keep_event BEFORE UPDATE OR DELETE OR TRUNCATE ON event FOR EACH STATEMENT EXECUTE FUNCTION keep_event();
