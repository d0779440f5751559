//! From cells to rows. What does not decode is a broken row, never a panic.

use jiff::Timestamp;
use sqlx::{Row, any::AnyRow};
use uuid::Uuid;

use super::Deed;
use crate::error::{KeychainError, Result};

/// One row of a query, read by column name.
pub(super) struct Cells<'r> {
    pub table: &'static str,
    pub row: &'r AnyRow,
}

impl Cells<'_> {
    fn broken(&self, column: &str, what: &str) -> KeychainError {
        let row = self.row.try_get::<i64, _>("seq").map_or_else(|_| "?".to_owned(), |seq| seq.to_string());
        KeychainError::Broken { table: self.table, row, what: format!("{column} {what}") }
    }

    pub fn int(&self, column: &str) -> Result<i64> {
        self.row.try_get(column).deed("read a number")
    }

    pub fn u32(&self, column: &str) -> Result<u32> {
        u32::try_from(self.int(column)?).map_err(|_| self.broken(column, "is out of range"))
    }

    pub fn text(&self, column: &str) -> Result<String> {
        self.row.try_get(column).deed("read a text")
    }

    pub fn opt_text(&self, column: &str) -> Result<Option<String>> {
        self.row.try_get(column).deed("read a text")
    }

    pub fn opt_bytes(&self, column: &str) -> Result<Option<Vec<u8>>> {
        self.row.try_get(column).deed("read bytes")
    }

    pub fn uuid(&self, column: &str) -> Result<Uuid> {
        let bytes: Vec<u8> = self.row.try_get(column).deed("read an id")?;
        Uuid::from_slice(&bytes).map_err(|_| self.broken(column, "is not an id"))
    }

    pub fn time(&self, column: &str) -> Result<Timestamp> {
        Timestamp::from_microsecond(self.int(column)?).map_err(|_| self.broken(column, "is not a time"))
    }

    pub fn opt_time(&self, column: &str) -> Result<Option<Timestamp>> {
        let micros: Option<i64> = self.row.try_get(column).deed("read a time")?;
        micros
            .map(|micros| {
                Timestamp::from_microsecond(micros).map_err(|_| self.broken(column, "is not a time"))
            })
            .transpose()
    }

    pub fn json(&self, column: &str) -> Result<serde_json::Value> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.broken(column, "is not JSON"))
    }

    /// A word of an enum, or a text with a grammar.
    pub fn parse<T>(&self, column: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        parse(&self.text(column)?).ok_or_else(|| self.broken(column, "is not a known word"))
    }

    /// The same, where there may be none.
    pub fn opt_parse<T>(&self, column: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let word = self.opt_text(column)?;
        word.map(|word| parse(&word).ok_or_else(|| self.broken(column, "is not a known word"))).transpose()
    }
}

/// An id as it is stored.
pub(super) fn id(uuid: Uuid) -> Vec<u8> {
    uuid.as_bytes().to_vec()
}
