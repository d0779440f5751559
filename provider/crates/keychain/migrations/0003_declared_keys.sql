-- Keys that a workspace has declared and that have no version yet, because their Account is not ready, say: what is needed to
-- put the object back after a re-bind. Unlike all other rows these go, when the key is made or its user deletes it.
CREATE TABLE declared_keys (
    tenant       {int} NOT NULL REFERENCES tenants (seq),
    namespace    TEXT NOT NULL CHECK (length(namespace) BETWEEN 1 AND 63),
    name         TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 253),
    spec         TEXT NOT NULL,
    seen_version {int} NOT NULL CHECK (seen_version BETWEEN 0 AND 4294967295),
    PRIMARY KEY (tenant, namespace, name)
) {keyed_table};
