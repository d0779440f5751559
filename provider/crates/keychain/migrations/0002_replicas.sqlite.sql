
-- No replica begins to hand out what is withheld.
CREATE TRIGGER hand_outs_begin BEFORE INSERT ON hand_outs
WHEN NEW.usable = 1 AND EXISTS (SELECT 1 FROM service_keys WHERE seq = NEW.service_key AND withheld IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'the key is withheld from all edges'); END;

CREATE TRIGGER hand_outs_again BEFORE UPDATE OF usable ON hand_outs
WHEN NEW.usable > OLD.usable AND EXISTS (SELECT 1 FROM service_keys WHERE seq = NEW.service_key AND withheld IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'the key is withheld from all edges'); END;
