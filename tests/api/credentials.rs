//! What is shown to the API server and by it: certificates and tokens, and new ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;

/// A folder of a test's own, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("svcnat-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a kubeconfig; the flag that names it.
    fn kubeconfig(&self, name: &str, cluster: Value, user: Value) -> String {
        let file = self.0.join(name);
        let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": user}]});
        fs::write(&file, text.to_string()).unwrap();
        format!("--kubeconfig={}", file.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate for 127.0.0.1 that is its own authority, as PEM, and what serves it.
fn certificate() -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key =
        tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (made.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[test]
fn tls_works_and_a_wrong_authority_is_named() {
    in_namespace(|| {
        loopback();
        let (right, acceptor) = certificate();
        let (wrong, _) = certificate();
        let server = Server::new();
        fill(&server, 2, 2);
        let listening = server.listen_with(0, Some(acceptor));
        let folder = Folder::new("tls");
        let kubeconfig = |name: &str, ca: &str| {
            let pem = folder.0.join(format!("{name}.pem"));
            fs::write(&pem, ca).unwrap();
            let url = format!("https://127.0.0.1:{}", listening.address.port());
            let cluster = json!({"server": url, "certificate-authority": pem});
            folder.kubeconfig(name, cluster, json!({"token": "t"}))
        };
        let mut agent = Agent::start("wrong", &[kubeconfig("wrong", &wrong)]);
        eventually("the complaint", || agent.log().contains("certificate"));
        agent.kill();
        let agent = Agent::start("right", &[kubeconfig("right", &right)]);
        eventually("the first sync", || agent.agrees_with(&server));
    });
}

#[test]
fn a_new_authority_is_believed_once_its_file_has_it() {
    in_namespace(|| {
        loopback();
        let (ca, acceptor) = certificate();
        let server = Server::new();
        fill(&server, 2, 2);
        let listening = server.listen_with(0, Some(acceptor));
        let port = listening.address.port();
        let folder = Folder::new("authority");
        let pem = folder.0.join("ca.pem");
        fs::write(&pem, ca).unwrap();
        let url = format!("https://127.0.0.1:{port}");
        let cluster = json!({"server": url, "certificate-authority": pem});
        let flag = folder.kubeconfig("config", cluster, json!({"token": "t"}));
        let agent = Agent::start("authority", &[flag]);
        eventually("the first sync", || agent.agrees_with(&server));
        drop(listening);
        let (ca, acceptor) = certificate();
        let _listening = server.listen_with(port, Some(acceptor));
        server.put(slice(0, &[50]));
        eventually("the complaint", || agent.log().contains("certificate"));
        assert!(!agent.agrees_with(&server));
        fs::write(&pem, ca).unwrap();
        let start = Instant::now();
        eventually("the change", || agent.agrees_with(&server));
        assert!(start.elapsed() < Duration::from_secs(3), "{start:?}");
    });
}

/// Swaps the token as the kubelet does: a new folder, and the link to it renamed over. The
/// line feed is what everybody else writes after a token.
fn rotate(folder: &Path, token: &str) {
    let data = folder.join(format!("..{token}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("token"), format!("{token}\n")).unwrap();
    symlink(&data, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[test]
fn a_rotated_token_is_used_at_once() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        server.demand_token("first");
        let listening = server.listen(0);
        let folder = Folder::new("token");
        rotate(&folder.0, "first");
        symlink("..data/token", folder.0.join("token")).unwrap();
        let file = folder.0.join("token");
        let url = format!("http://127.0.0.1:{}", listening.address.port());
        let user = json!({"tokenFile": file});
        let flag = folder.kubeconfig("config", json!({"server": url}), user);
        let agent = Agent::start("token", &[flag]);
        eventually("the first sync", || agent.agrees_with(&server));
        assert_eq!(server.refused(), 0);

        // Rotated in time: the new one is there before the old one is refused.
        rotate(&folder.0, "second");
        server.demand_token("second");
        let start = Instant::now();
        server.put(slice(0, &[50]));
        eventually("the change", || agent.agrees_with(&server));
        assert!(start.elapsed() < Duration::from_secs(2), "{start:?}");
        assert_eq!(server.refused(), 0, "the old token was shown again");

        // Rotated late: for a while there is nothing that is accepted.
        server.demand_token("third");
        server.put(slice(1, &[51]));
        let complaint = format!(
            "401 Unauthorized: the server does not accept the token in {}",
            file.display()
        );
        eventually("the complaint", || agent.log().contains(&complaint));
        std::thread::sleep(Duration::from_secs(3));
        assert!(!agent.agrees_with(&server));
        rotate(&folder.0, "third");
        let start = Instant::now();
        eventually("the late change", || agent.agrees_with(&server));
        println!("after a late rotation: {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(2), "{start:?}");

        // Each of the five kinds asks a few times while it waits, and not all the time.
        assert!(
            server.refused() < 80,
            "{} requests refused",
            server.refused()
        );
        assert!(agent.log().contains(&complaint));
        assert_eq!(agent.log().matches("cause=start").count(), 1);
    });
}
