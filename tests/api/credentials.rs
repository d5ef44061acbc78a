//! What is shown to the API server and by it: certificates and tokens.

use std::fs;
use std::sync::Arc;

use serde_json::json;

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;

#[test]
fn tls_works_and_a_wrong_authority_is_named() {
    in_namespace(|| {
        loopback();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(
            made.signing_key.serialize_der(),
        )
        .unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let server = Server::new();
        fill(&server, 2, 2);
        let listening =
            server.listen_with(0, Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))));
        let folder = std::env::temp_dir().join(format!("svcnat-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let kubeconfig = |name: &str, ca: &str| {
            let (file, pem) = (folder.join(name), folder.join(format!("{name}.pem")));
            fs::write(&pem, ca).unwrap();
            let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": format!("https://127.0.0.1:{}", listening.address.port()),
                    "certificate-authority": pem}}],
                "users": [{"name": "u", "user": {"token": "t"}}]});
            fs::write(&file, text.to_string()).unwrap();
            format!("--kubeconfig={}", file.display())
        };
        let mut wrong = Agent::start("wrong", &[kubeconfig("wrong", &other.cert.pem())]);
        eventually("the complaint", || wrong.log().contains("certificate"));
        wrong.kill();
        let right = Agent::start("right", &[kubeconfig("right", &made.cert.pem())]);
        eventually("the first sync", || right.agrees_with(&server));
        fs::remove_dir_all(&folder).unwrap();
    });
}
