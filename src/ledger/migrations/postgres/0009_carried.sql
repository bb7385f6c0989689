-- Schema 9: finds what is on its way although its client was told to come again. It only adds.

CREATE INDEX fingerprint_carried ON fingerprint (message) WHERE carrier = message;
