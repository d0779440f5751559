//! The caller's token, read again as it is renewed.

use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};

use crate::EdgeError;

/// Where the caller's token comes from.
#[derive(Clone)]
pub enum Token {
    /// A file, read for each call: kubelet and other agents renew tokens in place, and the file is in memory anyway.
    File(PathBuf),
    /// A token that its owner keeps fresh.
    Fixed(String),
    /// None: the client certificate says who calls.
    None,
}

impl Token {
    pub(crate) async fn header(&self) -> Result<Option<MetadataValue<Ascii>>, EdgeError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Fixed(token) => token.clone(),
            Self::File(path) => read(path).await?,
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| EdgeError::local("token", "the token has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

async fn read(path: &Path) -> Result<String, EdgeError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| EdgeError::io("token", format!("read the token in {}", path.display()), error))
}
