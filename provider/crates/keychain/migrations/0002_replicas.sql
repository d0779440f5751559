-- Several providers over one ledger: who is there, what each may have given to its edges, and what nobody may give.

-- Why the key is kept from every edge; NULL: it may be handed out.
ALTER TABLE service_keys ADD COLUMN withheld TEXT
    CHECK (withheld IN ('Disabled', 'RootLost', 'TenantSuspended', 'Deleted'));

-- A provider that runs. `beat` moves while it has the right to give leases; when it has stood still for long enough, another one
-- removes the row.
CREATE TABLE replicas (
    id       TEXT NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 63),
    beat     {int} NOT NULL DEFAULT 0,
    lease_ms {int} NOT NULL CHECK (lease_ms > 0),
    edges    TEXT NOT NULL DEFAULT '[]'
) {rowid_table};

-- What a replica's own edges have of a key. `usable` stands from before the first of them gets it until none can use it.
CREATE TABLE hand_outs (
    replica     TEXT NOT NULL REFERENCES replicas (id),
    service_key {int} NOT NULL REFERENCES service_keys (seq),
    usable      {int} NOT NULL CHECK (usable IN (0, 1)),
    fingerprint {int} NOT NULL DEFAULT 0,
    total       {int} NOT NULL DEFAULT 0,
    current     {int} NOT NULL DEFAULT 0,
    evicted     {int} NOT NULL DEFAULT 0,
    clients     {int} NOT NULL DEFAULT 0,
    PRIMARY KEY (replica, service_key)
) {keyed_table};

CREATE INDEX hand_outs_of ON hand_outs (service_key);

-- A change of one key; NULL: of the whole workspace.
ALTER TABLE changes ADD COLUMN namespace TEXT;
ALTER TABLE changes ADD COLUMN name TEXT;
