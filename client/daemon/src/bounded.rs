//! What of an application's bytes may pass.

use crate::listener::Application;
use crate::socks::Body;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An application of which no more is read than the rest of a body; what follows is dropped. (spec: PROXY-3)
pub(crate) struct Bounded {
    pub(crate) application: Application,
    pub(crate) body: Option<Body>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let before = buffer.filled().len();
            match Pin::new(&mut this.application).poll_read(context, buffer) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let Some(body) = &mut this.body else { return Poll::Ready(Ok(())) };
            let came = buffer.filled().get(before..).unwrap_or_default();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let taken = body.take(came);
            buffer.set_filled(before + taken);
            if body.is_broken() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            // To return without a byte would say that the application has ended.
            if taken > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.application).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.application).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.application).poll_shutdown(context)
    }
}
