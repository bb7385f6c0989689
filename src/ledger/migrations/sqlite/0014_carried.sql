-- Schema 14: finds what is on its way although its client was told to come again. Only adds.

CREATE INDEX fingerprint_carried ON fingerprint (message) WHERE carrier = message;
