//! From an address to a WebSocket.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use tungstenite::Error;
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::WebSocketConfig;

use super::plan::Plan;
use super::tally::Fault;
use super::target::with_session;

/// A connection.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What goes wrong, in words.
pub(super) type Failure = (Fault, String);

/// Makes connections to one server.
pub(super) struct Dialer {
    url: String,
    address: SocketAddr,
    sources: Vec<IpAddr>,
    headers: Vec<(HeaderName, HeaderValue)>,
    config: WebSocketConfig,
    connector: Connector,
}

impl Dialer {
    pub(super) fn new(plan: &Plan) -> Result<Dialer, String> {
        let connector = match plan.url.starts_with("wss:") {
            true => Connector::Rustls(trust(plan.ca_file.as_deref().map(Path::new))?),
            false => Connector::Plain,
        };
        let header = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
        Ok(Dialer {
            url: plan.url.clone(),
            address: plan.address,
            sources: plan.sources.clone(),
            headers: plan.headers.iter().filter_map(header).collect(),
            config: config(plan.payload),
            connector,
        })
    }

    /// One attempt; it waits for as long as the server lets it.
    pub(super) async fn dial(&self, number: u32, session: Option<&str>) -> Result<Socket, Failure> {
        let url = session.map_or_else(|| self.url.clone(), |session| with_session(&self.url, session));
        let mut request = url.into_client_request().map_err(|error| describe(&error))?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        let stream = self.connect(number).await.map_err(|error| refused(&error))?;
        let upgrade = client_async_tls_with_config(request, stream, Some(self.config), Some(self.connector.clone()));
        let (socket, response) = upgrade.await.map_err(|error| describe(&error))?;
        match (session, response.headers().get("x-session-uuid")) {
            (Some(session), Some(given)) if given.as_bytes() != session.as_bytes() => {
                Err((Fault::WrongAnswer, format!("session {session} was asked for, and {given:?} given")))
            }
            _ => Ok(socket),
        }
    }

    async fn connect(&self, number: u32) -> io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        if let Some(source) = self.sources.get(number as usize % self.sources.len().max(1)) {
            // The port is chosen by connect(2), which knows the whole pair of addresses. bind(2) would look for one that
            // is free for all (ip(7)).
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::new(*source, 0))?;
        }
        socket.connect(self.address).await
    }
}

/// With buffers for a reply instead of 128 KiB each. What is written goes out at once.
fn config(payload: usize) -> WebSocketConfig {
    let read = (payload + 256).next_power_of_two().clamp(512, 64 << 10);
    WebSocketConfig::default().read_buffer_size(read).write_buffer_size(0)
}

/// Whose certificates are good. Read once, not for every connection.
pub(super) fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    // An error means that one is installed already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |reason: &dyn std::fmt::Display| {
                format!("--ca-file {}: it must be a readable file of PEM certificates; {reason}", path.display())
            };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
                roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"it has none"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// Why there is no TCP connection.
fn refused(error: &io::Error) -> Failure {
    // No descriptor, no port, no such address here.
    const OURS: [Errno; 5] = [Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL, Errno::ENOBUFS, Errno::ENOMEM];
    let ours = error.raw_os_error().is_some_and(|code| OURS.contains(&Errno::from_raw(code)));
    (if ours { Fault::Local } else { Fault::Connect }, error.to_string())
}

/// What happened, and how bad it is.
pub(super) fn describe(error: &Error) -> Failure {
    match error {
        Error::Http(response) => (Fault::Handshake, format!("the handshake was answered with {}", response.status())),
        Error::Io(error) if error.kind() == ErrorKind::InvalidData => (Fault::Connect, error.to_string()),
        Error::Io(error) => (Fault::Lost, error.to_string()),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete)
        | Error::ConnectionClosed
        | Error::AlreadyClosed => (Fault::Lost, "cut by the server, without a close".to_owned()),
        other => (Fault::Protocol, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = trust(Some(file.path())).unwrap_err();
        assert!(said.ends_with("it has none"), "{said}");
        assert!(trust(Some(Path::new("/nowhere.pem"))).unwrap_err().starts_with("--ca-file /nowhere.pem: "));
    }

    #[test]
    fn buffers_are_as_large_as_replies() {
        for (payload, read) in [(0, 512), (64, 512), (1000, 2048), (1 << 24, 64 << 10)] {
            assert_eq!(config(payload).read_buffer_size, read);
        }
    }

    #[test]
    fn what_this_machine_lacks_is_not_the_servers_fault() {
        let fault = |errno: Errno| refused(&errno.into()).0;
        assert_eq!(fault(Errno::EMFILE), Fault::Local);
        assert_eq!(fault(Errno::EADDRNOTAVAIL), Fault::Local);
        assert_eq!(fault(Errno::ECONNREFUSED), Fault::Connect);
    }
}
