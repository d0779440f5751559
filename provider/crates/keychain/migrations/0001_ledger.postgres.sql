-- The same rules as for SQLite. Where SQLite has one writer, rows that a rule reads are locked here.

ALTER TABLE service_keys ADD CONSTRAINT current_version_exists
    FOREIGN KEY (seq, current_version) REFERENCES versions (service_key, version) DEFERRABLE INITIALLY DEFERRED;

CREATE FUNCTION openkcm_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation';
END $$;

CREATE TRIGGER tenants_stay BEFORE DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION openkcm_refuse('tenants are never deleted');
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION openkcm_refuse('accounts are never deleted');
CREATE TRIGGER account_keys_stay BEFORE DELETE ON account_keys FOR EACH ROW EXECUTE FUNCTION openkcm_refuse('account keys are never deleted');
CREATE TRIGGER service_keys_stay BEFORE DELETE ON service_keys FOR EACH ROW EXECUTE FUNCTION openkcm_refuse('service keys are never deleted');
CREATE TRIGGER versions_stay BEFORE DELETE ON versions FOR EACH ROW EXECUTE FUNCTION openkcm_refuse('versions are never deleted');

CREATE TRIGGER tenants_change BEFORE UPDATE ON tenants FOR EACH ROW
WHEN (OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.cluster <> OLD.cluster
  OR NEW.created_at <> OLD.created_at OR NEW.epoch < OLD.epoch)
EXECUTE FUNCTION openkcm_refuse('a tenant keeps its identity, and a destroyed one does not change');

CREATE FUNCTION openkcm_tenants_shred() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM accounts WHERE tenant = NEW.seq AND destroyed_at IS NULL) THEN
        RAISE EXCEPTION 'a tenant is destroyed after its accounts' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tenants_shred BEFORE UPDATE OF destroyed_at ON tenants FOR EACH ROW
WHEN (NEW.destroyed_at IS NOT NULL) EXECUTE FUNCTION openkcm_tenants_shred();

CREATE TRIGGER accounts_change BEFORE UPDATE ON accounts FOR EACH ROW
WHEN (OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant
  OR NEW.name <> OLD.name OR NEW.created_at <> OLD.created_at)
EXECUTE FUNCTION openkcm_refuse('an account keeps its identity, and a destroyed one does not change');

CREATE FUNCTION openkcm_accounts_destroy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM account_keys WHERE account = NEW.seq AND wrapped IS NOT NULL)
    OR EXISTS (SELECT 1 FROM service_keys WHERE account = NEW.seq AND destroyed_at IS NULL) THEN
        RAISE EXCEPTION 'an account is destroyed after its keys' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER accounts_destroy BEFORE UPDATE OF destroyed_at ON accounts FOR EACH ROW
WHEN (NEW.destroyed_at IS NOT NULL) EXECUTE FUNCTION openkcm_accounts_destroy();

CREATE FUNCTION openkcm_account_keys_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'Active' OR EXISTS (SELECT 1 FROM account_keys WHERE account = NEW.account AND version >= NEW.version) THEN
        RAISE EXCEPTION 'account key versions only count up' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER account_keys_number BEFORE INSERT ON account_keys FOR EACH ROW EXECUTE FUNCTION openkcm_account_keys_number();

CREATE TRIGGER account_keys_change BEFORE UPDATE ON account_keys FOR EACH ROW
WHEN (OLD.state = 'Erased' OR NEW.account <> OLD.account OR NEW.version <> OLD.version OR NEW.created_at <> OLD.created_at
  OR (OLD.state = 'Retiring' AND NEW.state = 'Active'))
EXECUTE FUNCTION openkcm_refuse('an account key only ages');

CREATE FUNCTION openkcm_account_keys_erase() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM versions WHERE account = OLD.account AND account_key_version = OLD.version AND sealed IS NOT NULL) THEN
        RAISE EXCEPTION 'the account key still seals service keys' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER account_keys_erase BEFORE UPDATE OF wrapped ON account_keys FOR EACH ROW
WHEN (NEW.wrapped IS NULL) EXECUTE FUNCTION openkcm_account_keys_erase();

CREATE TRIGGER service_keys_change BEFORE UPDATE ON service_keys FOR EACH ROW
WHEN (OLD.destroyed_at IS NOT NULL OR NEW.seq <> OLD.seq OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant
  OR NEW.account <> OLD.account OR NEW.namespace <> OLD.namespace OR NEW.name <> OLD.name OR NEW.created_at <> OLD.created_at)
EXECUTE FUNCTION openkcm_refuse('a service key keeps its identity, and a destroyed one does not change');

CREATE TRIGGER service_keys_forward BEFORE UPDATE OF current_version, seen_version, accepted_version ON service_keys FOR EACH ROW
WHEN (NEW.current_version < OLD.current_version OR NEW.seen_version < OLD.seen_version OR NEW.accepted_version < OLD.accepted_version)
EXECUTE FUNCTION openkcm_refuse('version numbers only move forward');

CREATE FUNCTION openkcm_service_keys_destroy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM versions WHERE service_key = NEW.seq AND sealed IS NOT NULL) THEN
        RAISE EXCEPTION 'a service key is destroyed after its versions' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER service_keys_destroy BEFORE UPDATE OF destroyed_at ON service_keys FOR EACH ROW
WHEN (NEW.destroyed_at IS NOT NULL) EXECUTE FUNCTION openkcm_service_keys_destroy();

CREATE FUNCTION openkcm_service_keys_rotate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE versions SET state = 'Deactivated'
     WHERE service_key = NEW.seq AND version = OLD.current_version AND state = 'Active';
    UPDATE versions SET state = 'Active' WHERE service_key = NEW.seq AND version = NEW.current_version;
    RETURN NULL;
END $$;
CREATE TRIGGER service_keys_rotate AFTER UPDATE OF current_version ON service_keys FOR EACH ROW
WHEN (NEW.current_version <> OLD.current_version) EXECUTE FUNCTION openkcm_service_keys_rotate();

CREATE FUNCTION openkcm_versions_number() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    current BIGINT;
    account_key TEXT;
BEGIN
    SELECT current_version INTO current FROM service_keys WHERE seq = NEW.service_key FOR UPDATE;
    IF NEW.version < current
    OR NEW.version = current AND EXISTS (SELECT 1 FROM versions WHERE service_key = NEW.service_key)
    OR NEW.state <> (CASE WHEN NEW.version = current THEN 'Active' ELSE 'PreActive' END) THEN
        RAISE EXCEPTION 'a version number is never used again' USING ERRCODE = 'check_violation';
    END IF;
    SELECT state INTO account_key FROM account_keys
     WHERE account = NEW.account AND version = NEW.account_key_version FOR SHARE;
    IF account_key IS DISTINCT FROM 'Active' THEN
        RAISE EXCEPTION 'only the active account key seals new versions' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER versions_number BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION openkcm_versions_number();

CREATE TRIGGER versions_change BEFORE UPDATE ON versions FOR EACH ROW
WHEN (OLD.state = 'Destroyed' OR NEW.service_key <> OLD.service_key OR NEW.version <> OLD.version OR NEW.account <> OLD.account
  OR NEW.created_at <> OLD.created_at
  OR NEW.state <> OLD.state AND NOT (
         OLD.state = 'PreActive' AND NEW.state = 'Active'
      OR OLD.state = 'Active' AND NEW.state IN ('Deactivated', 'Compromised', 'Destroyed')
      OR OLD.state = 'Deactivated' AND NEW.state IN ('Compromised', 'Destroyed')
      OR OLD.state = 'Compromised' AND NEW.state = 'Destroyed')
  OR NEW.sealed IS NOT NULL AND (NEW.sealed = OLD.sealed) <> (NEW.account_key_version = OLD.account_key_version))
EXECUTE FUNCTION openkcm_refuse('a version is immutable but for its state and its seal');

CREATE FUNCTION openkcm_versions_rewrap() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account_key TEXT;
BEGIN
    SELECT state INTO account_key FROM account_keys
     WHERE account = NEW.account AND version = NEW.account_key_version FOR SHARE;
    IF account_key IS NULL OR account_key = 'Erased' THEN
        RAISE EXCEPTION 'an erased account key seals nothing' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER versions_rewrap BEFORE UPDATE OF account_key_version ON versions FOR EACH ROW
WHEN (NEW.account_key_version <> OLD.account_key_version) EXECUTE FUNCTION openkcm_versions_rewrap();
