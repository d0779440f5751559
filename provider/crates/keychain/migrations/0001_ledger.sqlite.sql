CREATE TRIGGER tenants_stay BEFORE DELETE ON tenants BEGIN SELECT RAISE(ABORT, 'tenants are never deleted'); END;
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts BEGIN SELECT RAISE(ABORT, 'accounts are never deleted'); END;
CREATE TRIGGER account_keys_stay BEFORE DELETE ON account_keys BEGIN SELECT RAISE(ABORT, 'account keys are never deleted'); END;
CREATE TRIGGER service_keys_stay BEFORE DELETE ON service_keys BEGIN SELECT RAISE(ABORT, 'service keys are never deleted'); END;
CREATE TRIGGER versions_stay BEFORE DELETE ON versions BEGIN SELECT RAISE(ABORT, 'versions are never deleted'); END;

CREATE TRIGGER tenants_change BEFORE UPDATE ON tenants
WHEN OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.cluster <> OLD.cluster
  OR NEW.created_at <> OLD.created_at OR NEW.epoch < OLD.epoch
BEGIN SELECT RAISE(ABORT, 'a tenant keeps its identity, and a destroyed one does not change'); END;

CREATE TRIGGER tenants_shred BEFORE UPDATE OF destroyed_at ON tenants
WHEN NEW.destroyed_at IS NOT NULL AND EXISTS (SELECT 1 FROM accounts WHERE tenant = NEW.seq AND destroyed_at IS NULL)
BEGIN SELECT RAISE(ABORT, 'a tenant is destroyed after its accounts'); END;

CREATE TRIGGER accounts_change BEFORE UPDATE ON accounts
WHEN OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant
  OR NEW.name <> OLD.name OR NEW.created_at <> OLD.created_at
BEGIN SELECT RAISE(ABORT, 'an account keeps its identity, and a destroyed one does not change'); END;

CREATE TRIGGER accounts_destroy BEFORE UPDATE OF destroyed_at ON accounts
WHEN NEW.destroyed_at IS NOT NULL
 AND (EXISTS (SELECT 1 FROM account_keys WHERE account = NEW.seq AND wrapped IS NOT NULL)
   OR EXISTS (SELECT 1 FROM service_keys WHERE account = NEW.seq AND destroyed_at IS NULL))
BEGIN SELECT RAISE(ABORT, 'an account is destroyed after its keys'); END;

CREATE TRIGGER account_keys_number BEFORE INSERT ON account_keys
WHEN NEW.state <> 'Active' OR EXISTS (SELECT 1 FROM account_keys WHERE account = NEW.account AND version >= NEW.version)
BEGIN SELECT RAISE(ABORT, 'account key versions only count up'); END;

CREATE TRIGGER account_keys_change BEFORE UPDATE ON account_keys
WHEN OLD.state = 'Erased' OR NEW.account <> OLD.account OR NEW.version <> OLD.version OR NEW.created_at <> OLD.created_at
  OR (OLD.state = 'Retiring' AND NEW.state = 'Active')
BEGIN SELECT RAISE(ABORT, 'an account key only ages'); END;

CREATE TRIGGER account_keys_erase BEFORE UPDATE OF wrapped ON account_keys
WHEN NEW.wrapped IS NULL AND EXISTS (
    SELECT 1 FROM versions WHERE account = OLD.account AND account_key_version = OLD.version AND sealed IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'the account key still seals service keys'); END;

CREATE TRIGGER service_keys_change BEFORE UPDATE ON service_keys
WHEN OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant
  OR NEW.account <> OLD.account OR NEW.namespace <> OLD.namespace OR NEW.name <> OLD.name OR NEW.created_at <> OLD.created_at
BEGIN SELECT RAISE(ABORT, 'a service key keeps its identity, and a destroyed one does not change'); END;

CREATE TRIGGER service_keys_forward BEFORE UPDATE OF current_version, seen_version, accepted_version ON service_keys
WHEN NEW.current_version < OLD.current_version OR NEW.seen_version < OLD.seen_version OR NEW.accepted_version < OLD.accepted_version
BEGIN SELECT RAISE(ABORT, 'version numbers only move forward'); END;

CREATE TRIGGER service_keys_destroy BEFORE UPDATE OF destroyed_at ON service_keys
WHEN NEW.destroyed_at IS NOT NULL AND EXISTS (SELECT 1 FROM versions WHERE service_key = NEW.seq AND sealed IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'a service key is destroyed after its versions'); END;

-- The states follow the pointer: the version that it leaves still decrypts, the one that it reaches encrypts.
CREATE TRIGGER service_keys_rotate AFTER UPDATE OF current_version ON service_keys
WHEN NEW.current_version <> OLD.current_version
BEGIN
    UPDATE versions SET state = 'Deactivated'
     WHERE service_key = NEW.seq AND version = OLD.current_version AND state = 'Active';
    UPDATE versions SET state = 'Active' WHERE service_key = NEW.seq AND version = NEW.current_version;
END;

CREATE TRIGGER versions_number BEFORE INSERT ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version number is never used again') FROM service_keys
     WHERE seq = NEW.service_key
       AND (NEW.version < current_version
         OR NEW.version = current_version AND EXISTS (SELECT 1 FROM versions WHERE service_key = NEW.service_key)
         OR NEW.state <> CASE WHEN NEW.version = current_version THEN 'Active' ELSE 'PreActive' END);
    SELECT RAISE(ABORT, 'only the active account key seals new versions')
     WHERE NOT EXISTS (SELECT 1 FROM account_keys
                        WHERE account = NEW.account AND version = NEW.account_key_version AND state = 'Active');
END;

CREATE TRIGGER versions_change BEFORE UPDATE ON versions
WHEN OLD.state = 'Destroyed' OR NEW.service_key <> OLD.service_key OR NEW.version <> OLD.version OR NEW.account <> OLD.account
  OR NEW.created_at <> OLD.created_at
  OR NEW.state <> OLD.state AND NOT (
         OLD.state = 'PreActive' AND NEW.state = 'Active'
      OR OLD.state = 'Active' AND NEW.state IN ('Deactivated', 'Compromised', 'Destroyed')
      OR OLD.state = 'Deactivated' AND NEW.state IN ('Compromised', 'Destroyed')
      OR OLD.state = 'Compromised' AND NEW.state = 'Destroyed')
  -- Sealed bytes change when, and only when, another account key seals them.
  OR NEW.sealed IS NOT NULL AND (NEW.sealed = OLD.sealed) <> (NEW.account_key_version = OLD.account_key_version)
BEGIN SELECT RAISE(ABORT, 'a version is immutable but for its state and its seal'); END;

CREATE TRIGGER versions_rewrap BEFORE UPDATE OF account_key_version ON versions
WHEN NOT EXISTS (SELECT 1 FROM account_keys
                  WHERE account = NEW.account AND version = NEW.account_key_version AND state <> 'Erased')
BEGIN SELECT RAISE(ABORT, 'an erased account key seals nothing'); END;
