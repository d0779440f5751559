-- The ledger: tenants, accounts with account keys, service keys with versions, operators' changes.
--
-- One schema for SQLite and PostgreSQL. {serial}, {int}, {bytes}, {rowid_table} and {keyed_table} stand for what the
-- engines spell differently; triggers are in the file of the engine. `seq` is the engine's own compact key and never
-- leaves the database; `id` (a UUID, 16 bytes) is the identity that ciphertexts and sealed material name.
-- Times are microseconds since 1970 in UTC. Rows are never deleted: what is destroyed leaves a tombstone.

CREATE TABLE tenants (
    seq                   {serial},
    id                    {bytes} NOT NULL UNIQUE CHECK (length(id) = 16),
    cluster               TEXT NOT NULL CHECK (length(cluster) BETWEEN 1 AND 63),
    path                  TEXT NOT NULL,
    created_at            {int} NOT NULL,
    unbound_at            {int},
    retention_until       {int},
    operator_suspended_at {int},
    operator_reason       TEXT,
    recovered_at          {int},
    epoch                 {int} NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    destroyed_at          {int},
    CHECK ((unbound_at IS NULL) = (retention_until IS NULL)),
    CHECK ((operator_suspended_at IS NULL) = (operator_reason IS NULL)),
    CHECK (destroyed_at IS NULL OR destroyed_at >= retention_until),
    CHECK (destroyed_at IS NULL OR unbound_at IS NOT NULL)
) {rowid_table};

-- A workspace has one living tenant. kcp never reuses the name of a logical cluster.
CREATE UNIQUE INDEX tenants_living ON tenants (cluster) WHERE destroyed_at IS NULL;
CREATE INDEX tenants_retention ON tenants (retention_until) WHERE retention_until IS NOT NULL AND destroyed_at IS NULL;

CREATE TABLE accounts (
    seq             {serial},
    id              {bytes} NOT NULL UNIQUE CHECK (length(id) = 16),
    tenant          {int} NOT NULL REFERENCES tenants (seq),
    name            TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 253),
    spec            TEXT NOT NULL,
    created_at      {int} NOT NULL,
    root_lost_since {int},
    last_verified   {int},
    deleted_at      {int},
    recovered_at    {int},
    destroyed_at    {int},
    UNIQUE (tenant, seq),
    CHECK (destroyed_at IS NULL OR deleted_at IS NOT NULL)
) {rowid_table};

CREATE UNIQUE INDEX accounts_living ON accounts (tenant, name) WHERE destroyed_at IS NULL;
CREATE INDEX accounts_deleted ON accounts (deleted_at) WHERE deleted_at IS NOT NULL AND destroyed_at IS NULL;

CREATE TABLE account_keys (
    account        {int} NOT NULL REFERENCES accounts (seq),
    version        {int} NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    state          TEXT NOT NULL CHECK (state IN ('Active', 'Retiring', 'Erased')),
    wrapped        {bytes} CHECK (length(wrapped) > 0),
    root_provider  TEXT NOT NULL,
    root_reference TEXT NOT NULL,
    root_version   TEXT NOT NULL,
    root_spec      TEXT NOT NULL,
    created_at     {int} NOT NULL,
    erased_at      {int},
    PRIMARY KEY (account, version),
    CHECK ((state = 'Erased') = (wrapped IS NULL)),
    CHECK ((state = 'Erased') = (erased_at IS NOT NULL))
) {keyed_table};

CREATE UNIQUE INDEX account_keys_active ON account_keys (account) WHERE state = 'Active';

CREATE TABLE service_keys (
    seq              {serial},
    id               {bytes} NOT NULL UNIQUE CHECK (length(id) = 16),
    tenant           {int} NOT NULL,
    account          {int} NOT NULL,
    namespace        TEXT NOT NULL CHECK (length(namespace) BETWEEN 1 AND 63),
    name             TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 253),
    spec             TEXT NOT NULL,
    created_at       {int} NOT NULL,
    current_version  {int} NOT NULL CHECK (current_version BETWEEN 1 AND 4294967295),
    last_rotation    {int} NOT NULL,
    served_request   TEXT,
    next_rotation    {int},
    seen_version     {int} NOT NULL DEFAULT 0 CHECK (seen_version BETWEEN 0 AND 4294967295),
    accepted_version {int} NOT NULL DEFAULT 0 CHECK (accepted_version BETWEEN 0 AND 4294967295),
    deleted_at       {int},
    delete_after     {int},
    recovered_at     {int},
    destroyed_at     {int},
    UNIQUE (account, seq),
    -- A key cannot belong to another tenant's account.
    FOREIGN KEY (tenant, account) REFERENCES accounts (tenant, seq){current_version_exists},
    CHECK ((deleted_at IS NULL) = (delete_after IS NULL)),
    CHECK (destroyed_at IS NULL OR deleted_at IS NOT NULL)
) {rowid_table};

CREATE UNIQUE INDEX service_keys_living ON service_keys (tenant, namespace, name) WHERE destroyed_at IS NULL;
CREATE INDEX service_keys_due ON service_keys (next_rotation) WHERE next_rotation IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX service_keys_deleted ON service_keys (delete_after) WHERE delete_after IS NOT NULL AND destroyed_at IS NULL;

-- `account` is repeated here so that the database itself can say what an account key still seals.
CREATE TABLE versions (
    service_key         {int} NOT NULL,
    version             {int} NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    account             {int} NOT NULL,
    account_key_version {int} NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('PreActive', 'Active', 'Deactivated', 'Compromised', 'Destroyed')),
    sealed              {bytes} CHECK (length(sealed) BETWEEN 32 AND 255),
    created_at          {int} NOT NULL,
    destroyed_at        {int},
    PRIMARY KEY (service_key, version),
    FOREIGN KEY (account, service_key) REFERENCES service_keys (account, seq),
    FOREIGN KEY (account, account_key_version) REFERENCES account_keys (account, version),
    CHECK ((state = 'Destroyed') = (sealed IS NULL)),
    CHECK ((state = 'Destroyed') = (destroyed_at IS NOT NULL))
) {keyed_table};

CREATE UNIQUE INDEX versions_active ON versions (service_key) WHERE state = 'Active';
CREATE INDEX versions_sealed_by ON versions (account, account_key_version, service_key, version) WHERE sealed IS NOT NULL;

-- Keys that the world knows and this ledger does not, and that an operator has given up.
CREATE TABLE accepted_losses (
    tenant    {int} NOT NULL REFERENCES tenants (seq),
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    version   {int} NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    PRIMARY KEY (tenant, namespace, name)
) {keyed_table};

-- What operators changed, for providers in other processes. The counter's row lock puts tokens in commit order.
CREATE TABLE change_counter (
    one   {int} NOT NULL PRIMARY KEY CHECK (one = 1),
    value {int} NOT NULL
) {rowid_table};
INSERT INTO change_counter (one, value) VALUES (1, 0);

CREATE TABLE changes (
    token   {int} NOT NULL PRIMARY KEY,
    cluster TEXT NOT NULL
) {rowid_table};
