//! A byte stream to a server: TCP or Unix socket, plain or under TLS.
//!
//! TLS is negotiated here, once for both our clients. tokio-postgres is handed the finished stream
//! and told that it is the TLS one ([`PassThrough`]), because its own negotiation knows neither
//! allow nor the difference between require and verify-full.

use std::future::{ready, Ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use crate::conninfo::{Address, ConnInfo, Host};
use crate::error::{Error, Kind, Result};
use crate::tls;

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(crate) enum Transport {
    Plain(Socket),
    Tls { stream: Box<tokio_rustls::client::TlsStream<Socket>>, end_point: Option<Vec<u8>> },
}

/// What to ask the server for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encryption {
    Plain,
    /// Plain when the server has no TLS.
    TlsIfOffered,
    Tls,
}

/// Why there is no stream. After a failed TLS handshake sslmode may allow another attempt.
pub(crate) enum OpenError {
    Tls(Error),
    Other(Error),
}

impl OpenError {
    pub(crate) fn into_error(self) -> Error {
        match self {
            OpenError::Tls(error) | OpenError::Other(error) => error,
        }
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        OpenError::Other(error)
    }
}

/// Asked for, to be sent through a Unix socket while the server is at work.
const UNIX_SEND_BYTES: usize = 1 << 20;

impl Transport {
    pub(crate) async fn open(
        info: &ConnInfo,
        host: &Host,
        encryption: Encryption,
    ) -> Result<Transport, OpenError> {
        let mut socket = Socket::connect(info, host).await?;
        let Address::Tcp { name, .. } = &host.address else { return Ok(Transport::Plain(socket)) };
        if encryption == Encryption::Plain {
            return Ok(Transport::Plain(socket));
        }
        if socket.request_tls().await? {
            let handshake = tls::handshake(socket, &info.tls, name).await;
            let (stream, end_point) = handshake.map_err(OpenError::Tls)?;
            return Ok(Transport::Tls { stream: Box::new(stream), end_point });
        }
        match encryption {
            Encryption::Tls => Err(OpenError::Other(
                Error::new(Kind::Argument, "the server does not support TLS").hint(
                    "Set ssl = on and a certificate in the server's postgresql.conf, or use \
                     sslmode=prefer.",
                ),
            )),
            Encryption::Plain | Encryption::TlsIfOffered => Ok(Transport::Plain(socket)),
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Transport::Tls { .. })
    }

    /// The hash of the server's certificate, for SCRAM's channel binding.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        match self {
            Transport::Tls { end_point, .. } => end_point.as_deref(),
            Transport::Plain(_) => None,
        }
    }
}

impl Socket {
    async fn connect(info: &ConnInfo, host: &Host) -> Result<Socket> {
        match &host.address {
            Address::Unix(folder) => {
                let path = host.socket_path(folder);
                let stream = UnixStream::connect(&path).await.map_err(|e| unreachable(&e))?;
                // The kernel gives what it is allowed to; more of it means fewer wake-ups.
                SockRef::from(&stream).set_send_buffer_size(UNIX_SEND_BYTES)?;
                Ok(Socket::Unix(stream))
            }
            Address::Tcp { dial: Some(ip), .. } => {
                let stream = TcpStream::connect((*ip, host.port)).await;
                Socket::tcp(info, stream.map_err(|e| unreachable(&e))?)
            }
            Address::Tcp { name, dial: None } => {
                let stream = TcpStream::connect((name.as_str(), host.port)).await;
                Socket::tcp(info, stream.map_err(|e| unreachable(&e))?)
            }
        }
    }

    fn tcp(info: &ConnInfo, stream: TcpStream) -> Result<Socket> {
        stream.set_nodelay(true)?;
        let options = SockRef::from(&stream);
        if let Some(keepalive) = &info.keepalive {
            let wanted = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count);
            options.set_tcp_keepalive(&wanted)?;
        }
        #[cfg(target_os = "linux")]
        options.set_tcp_user_timeout(info.tcp_user_timeout)?;
        Ok(Socket::Tcp(stream))
    }

    /// Asks for TLS. Exactly one byte is read: whatever an attacker sends with it in the clear
    /// ends up in the handshake and breaks it.
    async fn request_tls(&mut self) -> Result<bool> {
        let mut request = BytesMut::new();
        postgres_protocol::message::frontend::ssl_request(&mut request);
        self.write_all(&request).await?;
        match self.read_u8().await? {
            b'S' => Ok(true),
            b'N' => Ok(false),
            // An ErrorResponse: the server has no resources to start a session. It is not
            // authenticated yet, so its text is not shown.
            b'E' => Err(Error::new(Kind::Resources, "the server refused the connection at once")),
            _ => Err(Error::new(Kind::Protocol, "the answer to the request for TLS is invalid")
                .hint("Check that a PostgreSQL server listens on that port.")),
        }
    }
}

fn unreachable(error: &io::Error) -> Error {
    Error::new(Kind::Unreachable, error.to_string())
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        match self.end_point() {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.to_owned()),
            None => ChannelBinding::none(),
        }
    }
}

/// Gives tokio-postgres a stream whose TLS, if any, is already in place.
pub(crate) struct PassThrough;

impl TlsConnect<Transport> for PassThrough {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<io::Result<Transport>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}
