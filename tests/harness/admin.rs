//! An operator at `/admin/`, by plain HTTP, and the commands that make one.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::http::{Answer, request};
use super::service::{Builder, baton, forget_settings};

/// The service's.
pub const SECRET_KEY: &str = "a key that is for tests alone";

/// Whom [`superuser`] makes, and the password.
pub const ADA: (&str, &str) = ("ada", "correct horse battery staple");

/// `baton create-superuser`, with the password on standard input.
pub fn create_superuser(state_dir: &Path, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    command.arg("create-superuser").arg("--state-dir").arg(state_dir).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("baton starts");
    // It may have refused before it reads.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("baton ends")
}

/// A service with `/admin/`, where [`ADA`] may log in.
#[track_caller]
pub fn with_admin(builder: Builder) -> Builder {
    let output = create_superuser(&builder.dir().join("state"), &["--username", ADA.0], &format!("{}\n", ADA.1));
    assert!(output.status.success(), "{output:?}");
    builder.env("SECRET_KEY", SECRET_KEY)
}

/// A client with a cookie, and the token of the last form that it was shown.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    /// What the browser would keep of a login.
    pub cookie: Option<String>,
    /// What it would keep for longer, as `name=value`.
    pub known: Option<String>,
    /// What forms carry.
    pub token: String,
    /// Fields of the head that every request gets.
    pub fields: String,
}

impl Visitor {
    /// Somebody who has logged in.
    #[track_caller]
    pub fn logged_in(address: SocketAddr) -> Visitor {
        let mut visitor = Visitor::default();
        let answer = visitor.log_in(address, ADA.0, ADA.1);
        assert_eq!((answer.status, answer.header("location")), (303, Some("/admin/")), "{answer:?}");
        visitor.get(address, "/admin/");
        visitor
    }

    /// Asks for the form and sends it.
    #[track_caller]
    pub fn log_in(&mut self, address: SocketAddr, name: &str, password: &str) -> Answer {
        let form = self.get(address, "/admin/login");
        assert_eq!(form.status, 200, "{form:?}");
        self.post(address, "/admin/login", &[("username", name), ("password", password)])
    }

    /// `GET path`.
    #[track_caller]
    pub fn get(&mut self, address: SocketAddr, path: &str) -> Answer {
        self.send(address, "GET", path, "", "")
    }

    /// A form, with the token.
    #[track_caller]
    pub fn post(&mut self, address: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.token.clone();
        let fields = fields.iter().copied().chain([("token", token.as_str())]);
        let body: Vec<String> = fields.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        self.send(address, "POST", path, "Content-Type: application/x-www-form-urlencoded\r\n", &body.join("&"))
    }

    /// Any request. The cookie and the token are kept as a browser does.
    #[track_caller]
    pub fn send(&mut self, address: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let login = self.cookie.as_ref().map(|cookie| format!("baton_admin={cookie}"));
        let cookies: Vec<String> = login.into_iter().chain(self.known.clone()).collect();
        let cookie = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{cookie}{}{fields}{length}\r\n{body}",
            self.fields
        );
        let answer = request(address, &text).expect("an answer");
        for set in answer.headers("set-cookie") {
            let pair = set.split(';').next().unwrap_or_default();
            match pair.split_once('=').expect("a cookie") {
                ("baton_admin", value) => self.cookie = Some(value.to_owned()).filter(|value| !value.is_empty()),
                (name, _) if name.starts_with("baton_known_") => self.known = Some(pair.to_owned()),
                (name, _) => panic!("not our cookie: {name}"),
            }
        }
        if let Some((_, rest)) = answer.body.split_once("name=\"token\" value=\"") {
            self.token = rest.split('"').next().unwrap_or_default().to_owned();
        }
        answer
    }

    /// What the cookie says, and its signature.
    #[track_caller]
    pub fn says(&self) -> Value {
        let cookie = self.cookie.as_ref().expect("a cookie");
        let (text, _) = cookie.split_once('.').expect("a signature");
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("JSON")
    }
}

/// A cookie as the service with this key would sign it.
pub fn sign_cookie(key: &str, says: &Value) -> String {
    let text = BASE64_URL_SAFE_NO_PAD.encode(says.to_string());
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("any length is a key");
    for part in [b"cookie".as_slice(), text.as_bytes()] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// As a form has it.
pub fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        byte if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
