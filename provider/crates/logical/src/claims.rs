//! A map from endpoint to a number that almost always has exactly one entry, and is made small for that.

/// Index of an endpoint in the roster.
pub(crate) type Slot = u16;

/// Never empty while it is stored. The first entry is the endpoint that wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    first: (Slot, u32),
    // A boxed Vec costs 8 bytes where there is nothing, and there is nothing unless a workspace is being moved.
    #[allow(clippy::box_collection)]
    more: Option<Box<Vec<(Slot, u32)>>>,
}

impl Claims {
    pub fn one(slot: Slot, number: u32) -> Self {
        Self { first: (slot, number), more: None }
    }

    pub fn last_writer(&self) -> Slot {
        self.first.0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, u32)> {
        std::iter::once(self.first).chain(self.more.iter().flat_map(|more| more.iter().copied()))
    }

    pub fn get(&self, slot: Slot) -> Option<u32> {
        self.iter().find(|(at, _)| *at == slot).map(|(_, number)| number)
    }

    /// Sets the number and makes the endpoint the last writer.
    pub fn put(&mut self, slot: Slot, number: u32) {
        if self.first.0 != slot {
            let before = self.first;
            let more = self.more.get_or_insert_default();
            more.retain(|(at, _)| *at != slot);
            more.insert(0, before);
        }
        self.first = (slot, number);
    }

    /// Sets the number of an endpoint that is there, and leaves the order.
    pub fn set(&mut self, slot: Slot, number: u32) {
        let all =
            std::iter::once(&mut self.first).chain(self.more.iter_mut().flat_map(|more| more.iter_mut()));
        for claim in all.filter(|claim| claim.0 == slot) {
            claim.1 = number;
        }
    }

    /// Takes an endpoint out; `false` if nothing is left (then the value must be dropped).
    #[must_use]
    pub fn remove(&mut self, slot: Slot) -> bool {
        let Some(more) = &mut self.more else { return self.first.0 != slot };
        if self.first.0 == slot {
            self.first = more.remove(0);
        } else {
            more.retain(|(at, _)| *at != slot);
        }
        if more.is_empty() {
            self.more = None;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writer_is_first_and_every_claim_is_kept_once() {
        let mut claims = Claims::one(1, 10);
        claims.put(2, 20);
        claims.put(3, 30);
        claims.put(1, 11);
        assert_eq!(claims.iter().collect::<Vec<_>>(), [(1, 11), (3, 30), (2, 20)]);
        assert!(claims.remove(3) && claims.remove(7));
        assert_eq!(claims.iter().collect::<Vec<_>>(), [(1, 11), (2, 20)]);
        assert!(claims.remove(1));
        assert_eq!((claims.last_writer(), claims.get(1), claims.get(2)), (2, None, Some(20)));
        assert!(!claims.remove(2));
    }

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Claims>(), 16);
    }
}
