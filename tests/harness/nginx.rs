//! An nginx of a test's own, with the site that is shipped, between the clients and a service.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{Connector, client_async_tls_with_config};

use super::service::die_with_us;
use super::{Client, SOON, eventually, free_address, http, raise_descriptor_limit, tls};

/// The directory that is shipped.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx");

/// The shipped site, and what is changed in it for a test: addresses and paths, as an operator does.
pub struct Site {
    changes: Vec<(String, String)>,
    dir: TempDir,
    plain: SocketAddr,
    tls: SocketAddr,
    redirect: SocketAddr,
}

/// A running nginx. Dropping it kills it.
pub struct Nginx {
    child: Child,
    dir: TempDir,
    /// Where it speaks HTTP: the server for behind a load balancer.
    pub address: SocketAddr,
    /// Where it speaks HTTPS.
    pub tls: SocketAddr,
    /// Where it sends everybody to HTTPS.
    pub redirect: SocketAddr,
}

impl Site {
    /// For the service at this place, as nginx writes it: `HOST:PORT` or `unix:PATH`.
    pub fn of(service: impl ToString) -> Site {
        let dir = tempfile::Builder::new().prefix("baton-nginx-").tempdir().expect("a temporary directory");
        let (plain, tls, redirect) = (free_address(), free_address(), free_address());
        Site { changes: Vec::new(), dir, plain, tls, redirect }
            .with("server 127.0.0.1:8000;", format!("server {};", service.to_string()))
            .with("listen 80;", format!("listen {redirect};"))
            .with("listen [::]:80;", "")
            .with("listen 443 ssl;", format!("listen {tls} ssl;"))
            .with("listen [::]:443 ssl;", "")
            .with("# server {\n#     listen 8080;", format!("# server {{\n#     listen {plain};"))
            .with("/etc/letsencrypt/live/baton.example.org/fullchain.pem", "site.crt")
            .with("/etc/letsencrypt/live/baton.example.org/privkey.pem", "site.key")
    }

    /// Something else in place of this, which must be there.
    pub fn with(mut self, shipped: &str, changed: impl ToString) -> Site {
        self.changes.push((shipped.to_owned(), changed.to_string()));
        self
    }

    /// For crowds that all come from one address.
    pub fn without_limits(self) -> Site {
        self.with("rate=100r/s", "rate=1000000r/s").with("rate=1000r/s", "rate=1000000r/s")
    }

    /// A file that is shipped, changed.
    fn changed(&self, file: &Path) -> String {
        let text = fs::read_to_string(file).expect("a file of ours");
        self.changes.iter().fold(text, |text, (shipped, changed)| text.replace(shipped, changed))
    }

    fn text(&self) -> String {
        let site = Path::new(SHIPPED).join("baton.conf");
        let files: Vec<String> =
            snippets().chain([site.clone()]).map(|file| fs::read_to_string(file).expect("a file of ours")).collect();
        for (shipped, _) in &self.changes {
            assert!(files.iter().any(|text| text.contains(shipped)), "the shipped site has no {shipped:?}");
        }
        let site = self.changed(&site);
        // The server for behind a load balancer is there as a comment.
        let (servers, commented) = site.split_once("\n# server {\n").expect("a server in a comment");
        let lines: Vec<&str> =
            commented.lines().map(|line| line.strip_prefix('#').expect("a comment to the end")).collect();
        let site = format!("{servers}\nserver {{\n{}\n", lines.join("\n"));
        site.replace("/var/log/nginx/", "")
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Nginx {
        // Two descriptors a client.
        raise_descriptor_limit();
        let site = self.text();
        let path = self.dir.path();
        let (plain, tls, redirect) = (self.plain, self.tls, self.redirect);
        tls::make_certificates(path, "site", tls.ip());
        fs::create_dir(path.join("snippets")).expect("a directory of ours");
        for snippet in snippets() {
            let name = snippet.file_name().expect("a file has a name");
            fs::write(path.join("snippets").join(name), self.changed(&snippet)).expect("room for a copy");
        }
        fs::write(path.join("baton.conf"), site).expect("a file of ours");
        fs::write(path.join("nginx.conf"), MAIN).expect("a file of ours");
        let mut command = Command::new("nginx");
        // Until it has read its configuration it would complain elsewhere.
        command.arg("-e").arg(path.join("error.log"));
        command.arg("-p").arg(format!("{}/", path.display())).arg("-c").arg(path.join("nginx.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        die_with_us(&mut command);
        let child = command.spawn().expect("nginx is installed");
        let mut nginx = Nginx { child, dir: self.dir, address: plain, tls, redirect };
        eventually("an answer of nginx", || {
            if let Ok(Some(status)) = nginx.child.try_wait() {
                panic!("nginx ended with {status}:\n{}", nginx.log("error.log"));
            }
            http::get(nginx.redirect, "/").ok()
        });
        nginx
    }
}

fn snippets() -> impl Iterator<Item = PathBuf> {
    let snippets = fs::read_dir(Path::new(SHIPPED).join("snippets")).expect("a directory of ours");
    snippets.map(|snippet| snippet.expect("a file").path())
}

/// What a distribution's `nginx.conf` has around a site. Relative paths are below the directory that nginx is started with.
/// Without a master there is one process, which dies with us.
const MAIN: &str = "daemon off;
master_process off;
pid nginx.pid;
error_log error.log info;
events { worker_connections 8192; }
http {
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    access_log access.log;
    include baton.conf;
}
";

impl Nginx {
    /// Before the service at this address.
    #[track_caller]
    pub fn start(service: SocketAddr) -> Nginx {
        Site::of(service).start()
    }

    /// Who has signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// What it has logged of requests to the site.
    pub fn requests(&self) -> Vec<Value> {
        let log = self.log("baton.log");
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// A WebSocket over TLS, with these fields in its request.
    pub async fn connect(&self, path: &str, fields: &[(&'static str, &str)]) -> Client {
        let mut request = format!("wss://{}{path}", self.tls).into_client_request().expect("a URL");
        for (name, value) in fields {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("text"));
        }
        let stream = tokio::net::TcpStream::connect(self.tls).await.expect("nginx listens");
        let connector = Some(Connector::Rustls(self.trust()));
        let connected = client_async_tls_with_config(request, stream, None, connector);
        let (socket, response) = timeout(SOON, connected).await.expect("an answer").expect("a WebSocket");
        Client { socket, response }
    }

    /// `GET path` over TLS.
    pub fn get(&self, path: &str) -> http::Answer {
        let name = ServerName::from(self.tls.ip());
        let connection = ClientConnection::new(self.trust(), name).expect("a configuration of ours");
        let stream = TcpStream::connect(self.tls).expect("nginx listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut stream = StreamOwned::new(connection, stream);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.tls).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, ended in order");
        http::parse(&answer).expect("HTTP")
    }

    /// Believes the site's certificate, and no other.
    fn trust(&self) -> Arc<ClientConfig> {
        let ca = CertificateDer::from_pem_file(self.ca_file()).expect("a certificate of ours");
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("a certificate of ours");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(builder.expect("versions that ring has").with_root_certificates(roots).with_no_client_auth())
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A connection to `to` from another address of this machine.
#[track_caller]
pub fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
    socket.connect_timeout(&to.into(), SOON).expect("a connection");
    socket.into()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log("error.log");
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of nginx's log:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
