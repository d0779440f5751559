//! Several replicas over one ledger: when has a key surely left every edge?
//!
//! Three rules, kept by the database, make the answer one query that needs no clock:
//!
//! 1. An edge gets a key from a replica only while that replica's row in `hand_outs` says `usable`.
//! 2. No such row comes to be, and none becomes usable again, while the key is withheld.
//! 3. Usable ends when the replica itself says that none of its edges can use the key any more, or with the replica: its row
//!    goes when its right to give leases, and the last lease that it can have given, are surely over.
//!
//! So a key that is withheld and that no replica has usable can be used by no edge, until it is released.

use std::{sync::atomic::Ordering, time::Duration};

use uuid::Uuid;

use super::{
    Deed, Ledger, Tx,
    decode::{Cells, id},
    locked,
};
use crate::{
    error::{KeychainError, Result},
    rows::{KeyId, Withheld},
};

/// A provider that runs over this ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name, fresh for each process.
    pub id: String,
    /// Counts up while it is alive.
    pub beat: i64,
    /// How long the leases are that it gives.
    pub lease: Duration,
    /// The edges that are connected to it.
    pub edges: Vec<Uuid>,
}

/// What the edges of one replica have of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOut {
    /// The replica.
    pub replica: String,
    /// An edge may be able to use the key.
    pub usable: bool,
    /// Of the state that its edges are brought to; 0: the key is taken back.
    pub fingerprint: u64,
    /// Edges that may have the key.
    pub total: u32,
    /// Those that have acknowledged the state.
    pub current: u32,
    /// Those that cannot use the key any more.
    pub evicted: u32,
    /// Distinct callers in the last window.
    pub clients: u32,
}

impl Ledger {
    /// A replica begins. Before this it must not give a lease to any edge.
    pub async fn join_replica(&self, replica: &str, lease: Duration) -> Result<()> {
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        sqlx::query("INSERT INTO replicas (id, lease_ms) VALUES ($1, $2)")
            .bind(replica)
            .bind(lease)
            .execute(&self.writer)
            .await
            .deed("announce a replica")?;
        self.replicated.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A replica is alive, with these edges. Gives back all replicas; [`KeychainError::Expelled`] if this is none any more.
    pub async fn beat(&self, replica: &str, edges: &[Uuid]) -> Result<Vec<Replica>> {
        let edges = serde_json::to_string(edges).unwrap_or_default(); // plain ids
        let beaten = sqlx::query("UPDATE replicas SET beat = beat + 1, edges = $2 WHERE id = $1")
            .bind(replica)
            .bind(edges)
            .execute(&self.writer)
            .await
            .deed("say that a replica is alive")?;
        if beaten.rows_affected() == 0 {
            return Err(KeychainError::Expelled(replica.to_owned()));
        }
        let rows = sqlx::query("SELECT id, beat, lease_ms, edges FROM replicas ORDER BY id")
            .fetch_all(&self.reader)
            .await
            .deed("list replicas")?;
        let decode = |row| {
            let cells = Cells { table: "replicas", row };
            Ok(Replica {
                id: cells.text("id")?,
                beat: cells.int("beat")?,
                lease: Duration::from_millis(cells.int("lease_ms")?.unsigned_abs()),
                edges: cells.parse("edges", |text| serde_json::from_str(text).ok())?,
            })
        };
        rows.iter().map(decode).collect()
    }

    /// A replica is surely dead and every lease that it gave is over: whatever it had handed out counts no more. False if
    /// it has moved since `beat`.
    pub async fn expel_replica(&self, replica: &str, beat: i64) -> Result<bool> {
        let mut tx = self.write().await?;
        let query = locked!(tx, "SELECT id FROM replicas WHERE id = $1 AND beat = $2", "UPDATE");
        let found = sqlx::query(query)
            .bind(replica)
            .bind(beat)
            .fetch_optional(&mut *tx.inner)
            .await
            .deed("expel a replica")?;
        if found.is_none() {
            return Ok(false);
        }
        for statement in ["DELETE FROM hand_outs WHERE replica = $1", "DELETE FROM replicas WHERE id = $1"] {
            sqlx::query(statement).bind(replica).execute(&mut *tx.inner).await.deed("expel a replica")?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// From now on no replica begins to hand out the key. Idempotent.
    pub async fn withhold(&self, key: KeyId, why: Withheld) -> Result<()> {
        self.set_withheld(key, Some(why)).await
    }

    /// Replicas may hand out the key again. Idempotent.
    pub async fn release(&self, key: KeyId) -> Result<()> {
        self.set_withheld(key, None).await
    }

    async fn set_withheld(&self, key: KeyId, why: Option<Withheld>) -> Result<()> {
        let mut tx = self.write().await?;
        let (seq, row) = tx.lock_key(key).await?;
        if row.withheld == why || row.destroyed_at.is_some() {
            return Ok(());
        }
        sqlx::query("UPDATE service_keys SET withheld = $2 WHERE seq = $1")
            .bind(seq)
            .bind(why.map(Withheld::as_str))
            .execute(&mut *tx.inner)
            .await
            .deed("withhold or release a service key")?;
        tx.announce_key(key).await?;
        tx.commit().await
    }

    /// A replica is about to hand the key to its edges. False: it is withheld, and must not be.
    pub async fn hand_out(&self, replica: &str, key: KeyId) -> Result<bool> {
        let mut tx = self.write().await?;
        let query =
            locked!(tx, "SELECT seq, withheld, destroyed_at FROM service_keys WHERE id = $1", "SHARE");
        let row = sqlx::query(query)
            .bind(id(key.0))
            .fetch_optional(&mut *tx.inner)
            .await
            .deed("lock a service key")?
            .ok_or(KeychainError::NoKey(key))?;
        let cells = Cells { table: "service_keys", row: &row };
        if cells.opt_text("withheld")?.is_some() || cells.opt_time("destroyed_at")?.is_some() {
            return Ok(false);
        }
        let seq = cells.int("seq")?;
        let changed = sqlx::query("UPDATE hand_outs SET usable = 1 WHERE replica = $1 AND service_key = $2")
            .bind(replica)
            .bind(seq)
            .execute(&mut *tx.inner)
            .await
            .deed("note what a replica hands out")?;
        if changed.rows_affected() == 0 {
            sqlx::query("INSERT INTO hand_outs (replica, service_key, usable) VALUES ($1, $2, 1)")
                .bind(replica)
                .bind(seq)
                .execute(&mut *tx.inner)
                .await
                .deed("note what a replica hands out")?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// How far a replica is with its edges. It can say that the key is usable no more, never that it is again: that is
    /// [`Ledger::hand_out`]'s to say.
    pub async fn report(&self, key: KeyId, now: &HandOut) -> Result<()> {
        let mut tx = self.write().await?;
        if !tx.update_hand_out(key, now).await? {
            sqlx::query(
                "INSERT INTO hand_outs (replica, service_key, usable) \
                 SELECT $1, seq, 0 FROM service_keys WHERE id = $2",
            )
            .bind(&now.replica)
            .bind(id(key.0))
            .execute(&mut *tx.inner)
            .await
            .deed("note what a replica's edges have")?;
            tx.update_hand_out(key, now).await?;
        }
        tx.announce_key(key).await?;
        tx.commit().await
    }

    /// What the edges of all replicas have of a key, as far as the replicas have said.
    pub async fn hand_outs(&self, key: KeyId) -> Result<Vec<HandOut>> {
        let rows = sqlx::query(
            "SELECT h.replica, h.usable, h.fingerprint, h.total, h.current, h.evicted, h.clients \
             FROM hand_outs h JOIN service_keys k ON k.seq = h.service_key WHERE k.id = $1 ORDER BY h.replica",
        )
        .bind(id(key.0))
        .fetch_all(&self.reader)
        .await
        .deed("read what replicas hand out")?;
        let decode = |row| {
            let cells = Cells { table: "hand_outs", row };
            Ok(HandOut {
                replica: cells.text("replica")?,
                usable: cells.int("usable")? != 0,
                fingerprint: cells.int("fingerprint")?.cast_unsigned(),
                total: cells.u32("total")?,
                current: cells.u32("current")?,
                evicted: cells.u32("evicted")?,
                clients: cells.u32("clients")?,
            })
        };
        rows.iter().map(decode).collect()
    }
}

impl Tx {
    async fn update_hand_out(&mut self, key: KeyId, now: &HandOut) -> Result<bool> {
        let updated = sqlx::query(
            "UPDATE hand_outs SET usable = CASE WHEN $3 = 0 THEN 0 ELSE usable END, fingerprint = $4, total = $5, \
             current = $6, evicted = $7, clients = $8 \
             WHERE replica = $1 AND service_key = (SELECT seq FROM service_keys WHERE id = $2)",
        )
        .bind(&now.replica)
        .bind(id(key.0))
        .bind(i64::from(now.usable))
        .bind(now.fingerprint.cast_signed())
        .bind(i64::from(now.total))
        .bind(i64::from(now.current))
        .bind(i64::from(now.evicted))
        .bind(i64::from(now.clients))
        .execute(&mut *self.inner)
        .await
        .deed("note what a replica's edges have")?;
        Ok(updated.rows_affected() > 0)
    }
}
