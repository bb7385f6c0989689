-- Schema 13: how much of a holder's rate was given back lately. It only adds.

-- When the next message that is given back would come if all came evenly, in microseconds.
ALTER TABLE tempo ADD COLUMN given_back bigint;
