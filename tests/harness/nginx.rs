//! An nginx of a test's own, between the clients and a service.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::service::die_with_us;
use super::tls::make_certificates;
use super::{eventually, free_address, http, raise_descriptor_limit};

/// Certificate and key, as [`make_certificates`] names them.
const TLS: &str = "ssl_certificate nginx.crt; ssl_certificate_key nginx.key;";

/// A running nginx. Dropping it kills it.
pub struct Nginx {
    child: Child,
    dir: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Passes everything on to the service at this address, and waits until that answers.
    #[track_caller]
    pub fn start(service: SocketAddr) -> Nginx {
        let nginx = Nginx::spawn(service, "");
        eventually("an answer through nginx", || {
            http::get(nginx.address, "/readyz").ok().filter(|answer| answer.status == 200)
        });
        nginx
    }

    /// As [`Nginx::start`], with TLS, and waits until it listens. [`Nginx::ca_file`] vouches for its certificate.
    #[track_caller]
    pub fn start_tls(service: SocketAddr) -> Nginx {
        let nginx = Nginx::spawn(service, TLS);
        eventually("nginx listens", || TcpStream::connect(nginx.address).ok());
        nginx
    }

    /// Who has signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn spawn(service: SocketAddr, tls: &str) -> Nginx {
        // Two descriptors a client.
        raise_descriptor_limit();
        let dir = tempfile::Builder::new().prefix("baton-nginx-").tempdir().expect("a temporary directory");
        let address = free_address();
        let path = dir.path().display();
        fs::write(dir.path().join("nginx.conf"), configuration(address, service, tls)).expect("a file of ours");
        if !tls.is_empty() {
            make_certificates(dir.path(), "nginx", address.ip());
        }
        let mut command = Command::new("nginx");
        // Until it has read its configuration it would complain elsewhere.
        command.arg("-e").arg(dir.path().join("error.log"));
        command.args(["-p", &format!("{path}/"), "-c", &format!("{path}/nginx.conf")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        die_with_us(&mut command);
        let child = command.spawn().expect("nginx is installed");
        Nginx { child, dir, address }
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// Relative paths are below the directory that it is started with. Without a master there is one process, which dies with us.
fn configuration(address: SocketAddr, service: SocketAddr, tls: &str) -> String {
    let ssl = if tls.is_empty() { "" } else { " ssl" };
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 4096; }}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {address}{ssl};
        {tls}
        location / {{
            proxy_pass http://{service};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"
    )
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
