-- Schema 8: the audit trail is only added to, whoever writes. It only guards: no binary ever did otherwise.
CREATE TRIGGER event_stays_as_it_is BEFORE UPDATE ON event BEGIN
    SELECT RAISE(ABORT, 'the audit trail is only added to');
END;
CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN
    SELECT RAISE(ABORT, 'the audit trail is only added to');
END;
