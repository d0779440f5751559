//! Many operations per message.

use openkcm_edge_protocol::application::{
    BatchRequest, BatchResponse, Items, Operation, crypto_client::CryptoClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{EdgeClient, EdgeError, Key};

/// Byte strings, packed one after the other.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Items);

impl Inputs {
    /// Appends one.
    pub fn push(&mut self, input: &[u8]) -> Result<(), EdgeError> {
        let length = u32::try_from(input.len())
            .map_err(|_| EdgeError::local("too-large", "an input of over 4 GiB"))?;
        self.0.data.extend_from_slice(input);
        self.0.lengths.push(length);
        Ok(())
    }
}

impl<T: AsRef<[u8]>> TryFrom<&[T]> for Inputs {
    type Error = EdgeError;

    fn try_from(inputs: &[T]) -> Result<Self, EdgeError> {
        let mut packed = Self::default();
        for input in inputs {
            packed.push(input.as_ref())?;
        }
        Ok(packed)
    }
}

/// What came of a batch.
pub struct Outputs(BatchResponse);

impl Outputs {
    /// The outputs in order of the inputs, each a result.
    pub fn iter(&self) -> impl Iterator<Item = Result<&[u8], EdgeError>> {
        let (mut rest, lengths) = match &self.0.outputs {
            Some(items) => (items.data.as_slice(), items.lengths.as_slice()),
            None => (&[][..], &[][..]),
        };
        let mut errors = self.0.errors.iter().peekable();
        lengths.iter().enumerate().map(move |(index, length)| {
            if let Some(error) = errors.next_if(|error| error.index as usize == index) {
                return Err(EdgeError::local(&error.code, error.message.clone()));
            }
            let short = || EdgeError::local("internal", "the edge's answer contradicts itself");
            let (output, behind) = rest.split_at_checked(*length as usize).ok_or_else(short)?;
            rest = behind;
            Ok(output)
        })
    }
}

/// An open stream of batches: answers come in the order of the requests.
pub struct BatchSession {
    requests: mpsc::Sender<BatchRequest>,
    answers: Streaming<BatchResponse>,
    next: u64,
}

impl BatchSession {
    pub(crate) async fn open(client: &EdgeClient) -> Result<Self, EdgeError> {
        let (requests, outbound) = mpsc::channel(32);
        let request = client.request(ReceiverStream::new(outbound))?;
        let mut inner: CryptoClient<Channel> = client.inner.clone();
        let answers = inner.batch(request).await?.into_inner();
        Ok(Self { requests, answers, next: 0 })
    }

    /// Sends plaintexts to encrypt. `aads` has one for each, or one for all, or none.
    pub async fn send_encrypt(&mut self, key: &Key, inputs: Inputs, aads: Inputs) -> Result<u64, EdgeError> {
        self.send(Operation::Encrypt, key, inputs, aads).await
    }

    /// Sends ciphertexts to decrypt.
    pub async fn send_decrypt(&mut self, key: &Key, inputs: Inputs, aads: Inputs) -> Result<u64, EdgeError> {
        self.send(Operation::Decrypt, key, inputs, aads).await
    }

    async fn send(
        &mut self,
        operation: Operation,
        key: &Key,
        inputs: Inputs,
        aads: Inputs,
    ) -> Result<u64, EdgeError> {
        let id = self.next;
        self.next += 1;
        let request = BatchRequest {
            id,
            key: Some(key.to_wire()),
            operation: operation.into(),
            inputs: Some(inputs.0),
            aads: (!aads.0.lengths.is_empty()).then_some(aads.0),
        };
        if self.requests.send(request).await.is_err() {
            // The reason is in the answers, if there is one.
            self.answers.message().await?;
            return Err(EdgeError::local("unreachable", "the edge ended the session"));
        }
        Ok(id)
    }

    /// Waits for the next answer.
    pub async fn receive(&mut self) -> Result<(u64, Outputs), EdgeError> {
        let answer = self.answers.message().await?;
        let answer = answer.ok_or_else(|| EdgeError::local("unreachable", "the edge ended the session"))?;
        Ok((answer.id, Outputs(answer)))
    }

    /// Encrypts and waits.
    pub async fn encrypt(&mut self, key: &Key, inputs: Inputs, aads: Inputs) -> Result<Outputs, EdgeError> {
        self.send_encrypt(key, inputs, aads).await?;
        Ok(self.receive().await?.1)
    }

    /// Decrypts and waits.
    pub async fn decrypt(&mut self, key: &Key, inputs: Inputs, aads: Inputs) -> Result<Outputs, EdgeError> {
        self.send_decrypt(key, inputs, aads).await?;
        Ok(self.receive().await?.1)
    }
}
