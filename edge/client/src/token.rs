//! The caller's token, read again as it is renewed.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::metadata::{Ascii, MetadataValue};

use crate::EdgeError;

/// How long a token that was read from a file is used before the file is read again.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Where the caller's token comes from.
#[derive(Clone)]
pub enum Token {
    /// A file, which kubelet and other agents renew in place: it is read again every second in which there are calls.
    File(PathBuf),
    /// A token that its owner keeps fresh.
    Fixed(String),
    /// None: the client certificate says who calls.
    None,
}

/// The header made of a token, and when.
pub(crate) struct Credentials {
    token: Token,
    made: Mutex<Option<(Instant, MetadataValue<Ascii>)>>,
}

impl Credentials {
    pub(crate) fn new(token: Token) -> Self {
        Self { token, made: Mutex::new(None) }
    }

    /// The value of `authorization`.
    pub(crate) fn header(&self) -> Result<Option<MetadataValue<Ascii>>, EdgeError> {
        if matches!(self.token, Token::None) {
            return Ok(None);
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, header)) = &*made
            && (matches!(self.token, Token::Fixed(_)) || when.elapsed() < READ_EVERY)
        {
            return Ok(Some(header.clone()));
        }
        let header = self.make()?;
        *made = Some((Instant::now(), header.clone()));
        Ok(Some(header))
    }

    fn make(&self) -> Result<MetadataValue<Ascii>, EdgeError> {
        let token = match &self.token {
            Token::None => String::new(),
            Token::Fixed(token) => token.clone(),
            // A small file in memory: reading it here takes less than handing it to another thread.
            Token::File(path) => fs::read_to_string(path).map_err(|error| {
                EdgeError::io("token", format!("read the token in {}", path.display()), error)
            })?,
        };
        // Not marked as sensitive, which would send the whole token with every call: this way HTTP/2 sends it once and
        // then its number. What a guess could learn from that takes somebody who chooses headers of this very connection.
        format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| EdgeError::local("token", "the token has characters that no token has"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_renewed_file_is_noticed_and_a_missing_one_is_named() {
        let path = std::env::temp_dir().join(format!("openkcm-token-{}", std::process::id()));
        let credentials = Credentials::new(Token::File(path.clone()));
        assert_eq!(credentials.header().unwrap_err().code, "token");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(credentials.header().unwrap().unwrap(), "Bearer one");
        fs::write(&path, "two").unwrap();
        std::thread::sleep(READ_EVERY);
        assert_eq!(credentials.header().unwrap().unwrap(), "Bearer two");
        fs::remove_file(&path).unwrap();
    }
}
