//! What the ledger says in this replica's name about its edges and each key.

use std::{collections::HashMap, future::Future, sync::Mutex};

use openkcm_keychain::{HandOut, rows::KeyId as RowId};
use openkcm_orchestrator::KeyId;

use super::provider::lock;

/// Remembers it, so that only news is written. A write that failed may have been done all the same: after it nothing is
/// taken for known, neither that an edge may get the key nor that the others have heard that none can use it.
#[derive(Default)]
pub struct Reported(Mutex<HashMap<KeyId, Known>>);

#[derive(Clone)]
struct Known {
    row: RowId,
    /// What surely stands there.
    written: Option<HandOut>,
    /// It may stand there that the key is usable.
    usable: bool,
}

impl Reported {
    /// Before edges get a key: `write` notes that they may, or answers that they may not.
    pub async fn hand_out<E>(
        &self,
        id: &KeyId,
        row: RowId,
        write: impl Future<Output = Result<bool, E>>,
    ) -> Result<bool, E> {
        let before = lock(&self.0).get(id).filter(|known| known.row == row).cloned();
        if before.as_ref().and_then(|known| known.written.as_ref()).is_some_and(|written| written.usable) {
            return Ok(true);
        }
        lock(&self.0).insert(id.clone(), Known { row, written: None, usable: true });
        let allowed = write.await?;
        if !allowed {
            match before {
                Some(known) => lock(&self.0).insert(id.clone(), known),
                None => lock(&self.0).remove(id),
            };
        }
        Ok(allowed)
    }

    /// From now on the others hear of the key, which no edge got from here: `nothing` is what stands there.
    pub fn begin(&self, id: &KeyId, row: RowId, nothing: HandOut) {
        let known = Known { row, written: Some(nothing), usable: false };
        lock(&self.0).entry(id.clone()).or_insert(known);
    }

    /// How far the edges are now, of which one may be able to use the key if it was handed out. With `forget` there is
    /// nothing more to say about the key once none can.
    pub async fn report<E, F: Future<Output = Result<(), E>>>(
        &self,
        id: &KeyId,
        mut now: HandOut,
        forget: bool,
        write: impl FnOnce(RowId, HandOut) -> F,
    ) -> Result<(), E> {
        let Some(known) = lock(&self.0).get(id).cloned() else { return Ok(()) };
        now.usable &= known.usable;
        if known.written.as_ref() != Some(&now) {
            lock(&self.0).insert(id.clone(), Known { written: None, ..known });
            write(known.row, now.clone()).await?;
        }
        if forget && !now.usable {
            lock(&self.0).remove(id);
        } else {
            let known = Known { row: known.row, usable: now.usable, written: Some(now) };
            lock(&self.0).insert(id.clone(), known);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn says(usable: bool, total: u32) -> HandOut {
        let replica = "a".to_owned();
        HandOut { replica, usable, fingerprint: 0, total, current: 0, evicted: 0, clients: 0 }
    }

    #[tokio::test]
    async fn after_a_write_whose_answer_was_lost_it_is_written_again() {
        let id = KeyId { cluster: "c".parse().unwrap(), namespace: "n".into(), name: "k".into() };
        let (row, reported) = (RowId(uuid::Uuid::nil()), Reported::default());
        // Whether an answer comes, what was written, and in between what is asked.
        let written = RefCell::new(Vec::new());
        let hand_out = async |answer: Result<bool, ()>| {
            let write = async {
                written.borrow_mut().push("usable");
                answer
            };
            reported.hand_out(&id, row, write).await
        };
        let report = async |usable: bool, answer: Result<(), ()>| {
            let write = async |_, now: HandOut| {
                written.borrow_mut().push(if now.usable { "served" } else { "not usable" });
                answer
            };
            reported.report(&id, says(usable, 1), false, write).await
        };

        assert_eq!(hand_out(Ok(false)).await, Ok(false), "withheld");
        assert_eq!(report(false, Ok(())).await, Ok(()));
        assert_eq!(*written.borrow(), ["usable"], "nothing is there of it");
        assert_eq!(hand_out(Err(())).await, Err(()));
        assert_eq!(report(false, Ok(())).await, Ok(()));
        assert_eq!(written.borrow()[1..], ["usable", "not usable"], "it may have been noted");

        assert_eq!((hand_out(Ok(true)).await, report(true, Ok(())).await), (Ok(true), Ok(())));
        assert_eq!((hand_out(Ok(true)).await, report(true, Ok(())).await), (Ok(true), Ok(())));
        assert_eq!(written.borrow()[3..], ["usable", "served"], "once");
        assert_eq!(report(false, Err(())).await, Err(()));
        assert_eq!(hand_out(Ok(true)).await, Ok(true));
        assert_eq!(
            written.borrow()[5..],
            ["not usable", "usable"],
            "the others may count on it that it is not"
        );
    }
}
