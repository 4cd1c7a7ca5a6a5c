//! Certificates of a test's own.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

/// Makes `ca.crt`, and a `NAME.crt` with `NAME.key` for a server at this address.
#[track_caller]
pub fn make_certificates(dir: &Path, name: &str, address: IpAddr) {
    // What stands in the machine's own file is not what a test says.
    let config = format!(
        "[req]\nprompt = no\ndistinguished_name = name\n[name]\nCN = a test\n\
         [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\nsubjectKeyIdentifier = hash\n\
         [server]\nbasicConstraints = CA:FALSE\nsubjectAltName = IP:{address}\nextendedKeyUsage = serverAuth\n"
    );
    fs::write(dir.join("openssl.cnf"), config).expect("a file of ours");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let make = |name: &str, args: &[&str]| {
        let (crt, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        let mut command = Command::new("openssl");
        command.current_dir(dir).args(["req", "-x509", "-config", "openssl.cnf", "-out", &crt, "-keyout", &key_file]);
        let output = command.args(key).args(args).output().expect("openssl is installed");
        assert!(output.status.success(), "{command:?}: {output:?}");
    };
    make("ca", &["-extensions", "ca"]);
    make(name, &["-extensions", "server", "-CA", "ca.crt", "-CAkey", "ca.key"]);
}
