//! What a worker is told about Redis. Validated before it gets here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Address;

/// Plain values; shown without the password.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// What every key and channel begins with.
    pub prefix: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whom a server's certificate must be signed by, as PEM; none: anybody whom this machine trusts.
    pub ca_file: Option<PathBuf>,
}

/// The certificates of a CA file, or a sentence that says what is wrong with it.
pub fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut certificates = CertificateDer::pem_slice_iter(&pem).peekable();
    if certificates.peek().is_none() {
        return Err(format!("{} holds no PEM certificate", path.display()));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        let added = certificate.map_err(|error| error.to_string()).map(|certificate| roots.add(certificate));
        added
            .and_then(|added| added.map_err(|error| error.to_string()))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(pem)
}
