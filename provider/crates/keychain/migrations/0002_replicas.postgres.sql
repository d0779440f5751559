
-- No replica begins to hand out what is withheld; the lock makes the two wait for one another.
CREATE FUNCTION openkcm_hand_outs_begin() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    why TEXT;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.usable = 1 THEN
        RETURN NEW;
    END IF;
    SELECT withheld INTO why FROM service_keys WHERE seq = NEW.service_key FOR SHARE;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'the key is withheld from all edges' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hand_outs_begin BEFORE INSERT OR UPDATE ON hand_outs FOR EACH ROW
WHEN (NEW.usable = 1) EXECUTE FUNCTION openkcm_hand_outs_begin();
