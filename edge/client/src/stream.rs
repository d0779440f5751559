//! Inputs of any length.

use openkcm_edge_protocol::application::{StreamRequest, StreamResponse};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::{EdgeClient, EdgeError, Key};

const PIECE: usize = 256 << 10;

impl EdgeClient {
    /// Encrypts all of `input` into `output`.
    pub async fn encrypt_stream<R, W>(
        &self,
        key: &Key,
        aad: &[u8],
        input: R,
        output: W,
    ) -> Result<(), EdgeError>
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        let mut inner = self.inner.clone();
        let (sender, requests) = mpsc::channel(4);
        let request = self.request(ReceiverStream::new(requests))?;
        pump(sender, first(key, aad), input, inner.encrypt_stream(request), output).await
    }

    /// Decrypts all of `input` into `output`. Every byte that is written was verified, but whether the stream is whole is
    /// known only when this returns: on an error, throw the output away.
    pub async fn decrypt_stream<R, W>(
        &self,
        key: &Key,
        aad: &[u8],
        input: R,
        output: W,
    ) -> Result<(), EdgeError>
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        let mut inner = self.inner.clone();
        let (sender, requests) = mpsc::channel(4);
        let request = self.request(ReceiverStream::new(requests))?;
        pump(sender, first(key, aad), input, inner.decrypt_stream(request), output).await
    }
}

fn first(key: &Key, aad: &[u8]) -> StreamRequest {
    StreamRequest { key: Some(key.to_wire()), aad: aad.to_vec(), data: Vec::new() }
}

/// Sends and receives at once, so that neither side waits for the other's buffers.
async fn pump<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    sender: mpsc::Sender<StreamRequest>,
    first: StreamRequest,
    mut input: R,
    call: impl Future<Output = Result<Response<Streaming<StreamResponse>>, Status>>,
    mut output: W,
) -> Result<(), EdgeError> {
    let send = async move {
        let mut message = first;
        // A closed channel means that the edge has answered with an error, which the other half reports.
        while sender.send(message).await.is_ok() {
            let mut data = Vec::with_capacity(PIECE);
            let count = (&mut input).take(PIECE as u64).read_to_end(&mut data).await;
            if count.map_err(|error| EdgeError::io("input", "read the input".into(), error))? == 0 {
                break;
            }
            message = StreamRequest { data, ..StreamRequest::default() };
        }
        Ok(())
    };
    let receive = async {
        let failed = |error| EdgeError::io("output", "write the output".into(), error);
        let mut answers = call.await?.into_inner();
        while let Some(answer) = answers.message().await? {
            output.write_all(&answer.data).await.map_err(failed)?;
        }
        output.flush().await.map_err(failed)
    };
    tokio::try_join!(send, receive).map(|((), ())| ())
}
