//! A TCP listener for HTTP that holds a bounded number of connections.
//!
//! More wait in the kernel's backlog until one ends, so that whoever opens connections to the API
//! cannot use up the descriptors that the swarm needs. It looks at no byte of what is sent.

use axum::serve::Listener;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// After a failed accept, usually for lack of descriptors, wait this long for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts while fewer than its limit are open.
#[derive(Debug)]
pub(crate) struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Limited {
    pub(crate) fn new(listener: TcpListener, limit: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(limit)),
        }
    }
}

impl Listener for Limited {
    type Io = Place;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Place, SocketAddr) {
        loop {
            // The semaphore is never closed, so that this waits for a place and nothing else.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            if let Ok((stream, from)) = self.listener.accept().await {
                // Slower without, wrong never.
                let _ = stream.set_nodelay(true);
                return (
                    Place {
                        stream,
                        _place: place,
                    },
                    from,
                );
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection, and the place it takes until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Place {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Place {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_third_connection_waits_until_one_of_two_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = Limited::new(listener, 2);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let first = limited.accept().await;
        let _second = limited.accept().await;
        let waiting = tokio::time::timeout(Duration::from_millis(50), limited.accept()).await;
        assert!(waiting.is_err(), "a third place was given");
        drop(first);
        let (_, third) = limited.accept().await;
        assert_eq!(third, clients[2].local_addr().unwrap());
    }
}
