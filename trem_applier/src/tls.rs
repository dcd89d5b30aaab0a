//! TLS with libpq's meaning of sslmode (fe-secure-openssl.c).
//!
//! Without a root certificate the stream is encrypted and the server unverified; with one the chain
//! must lead to it in every mode, as in libpq, and verify-full also compares the host name. Whoever
//! verifies nothing can still be sure of the server by SCRAM with channel binding; therefore the
//! handshake's signature is checked in every mode.

mod certificate;

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    self, verify_tls13_signature_with_raw_key, CryptoProvider, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

use crate::conninfo::{RootCert, SslMode, TlsOptions, TlsVersion};
use crate::error::{Error, Kind, Result};
use crate::transport::Socket;

/// The stream, and the hash of the server's certificate if it has one.
pub(crate) async fn handshake(
    socket: Socket,
    options: &TlsOptions,
    host: &str,
) -> Result<(TlsStream<Socket>, Option<Vec<u8>>)> {
    let config = config(options)?;
    let name = ServerName::try_from(host.to_owned());
    let name = match (name, options.mode) {
        (Ok(name), _) => name,
        (Err(_), SslMode::VerifyFull) => {
            return Err(Error::new(Kind::Argument, format!("\"{host}\" is no valid host name")))
        }
        // Not sent, because `config` turns SNI off for it, and not compared.
        (Err(_), _) => ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()),
    };
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(failed)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let end_point = certificates.first().and_then(|first| certificate::end_point(first));
    Ok((stream, end_point))
}

fn failed(error: std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(inner) = inner else {
        return Error::new(Kind::ConnectionLost, format!("TLS handshake failed: {error}"));
    };
    let hint = match inner {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "Give the certificate authority's certificate in sslrootcert; sslmode=require \
                 without sslrootcert encrypts and verifies nothing."
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "Connect by a name that is in the server's certificate; sslmode=verify-ca does \
                 not compare the name."
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "Renew the server's certificate."
            }
            CertificateError::Other(other) if is_own_authority(other) => {
                "The server's certificate is its own authority: give a copy of it in sslrootcert."
            }
            _ => "Check the server's certificate: it must be an X.509 certificate of version 3.",
        },
        rustls::Error::AlertReceived(_) => {
            "The server refused the handshake: check sslcert and sslkey, and its log."
        }
        _ => "Check the TLS settings of server and connection.",
    };
    Error::new(Kind::Authentication, format!("TLS handshake failed: {inner}")).hint(hint)
}

fn config(options: &TlsOptions) -> Result<ClientConfig> {
    let provider = Arc::new(crypto::ring::default_provider());
    let versions: &[_] = match options.version_min {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let verifier = Verifier::new(options, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.cert {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key = private_key(key)?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|error| {
                Error::new(Kind::Argument, format!("sslcert and sslkey are not usable: {error}"))
            })?
        }
    };
    config.enable_sni = options.sni;
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let refused = |error: &dyn fmt::Display| unreadable("certificate", file, error);
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refused(&error))?;
    match found.is_empty() {
        true => Err(refused(&"it holds no PEM certificate")),
        false => Ok(found),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let refused = |error: &dyn fmt::Display| unreadable("private key", file, error);
    let metadata = std::fs::metadata(file).map_err(|error| refused(&error))?;
    // As libpq: 0600, or 0640 if it belongs to root.
    let open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & open != 0 {
        return Err(refused(&"it can be read by others")
            .hint(format!("Run `chmod 600 {}`.", file.display())));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        refused(&error).hint("The key must be PEM and not protected by a passphrase.")
    })
}

fn unreadable(what: &str, file: &Path, error: &dyn fmt::Display) -> Error {
    let file = file.display();
    Error::new(Kind::Argument, format!("cannot use the {what} file \"{file}\": {error}"))
        .hint("Check the options sslrootcert, sslcert and sslkey: each names a PEM file.")
}

/// Decides about the server's certificate.
#[derive(Debug)]
struct Verifier {
    /// None verifies nothing.
    roots: Option<Roots>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(options: &TlsOptions, provider: &CryptoProvider) -> Result<Verifier> {
        let certificates = match (&options.root_cert, options.mode) {
            (Some(RootCert::File(file)), _) => Some(certificates(file)?),
            (Some(RootCert::System), _) => Some(system_certificates()?),
            (None, SslMode::VerifyCa | SslMode::VerifyFull) => {
                return Err(Error::new(Kind::Argument, "there is no root certificate to verify by")
                    .hint(
                        "Give the certificate authority's file in sslrootcert (or `system` for \
                         what the system trusts), or put it at ~/.postgresql/root.crt.",
                    ))
            }
            (None, _) => None,
        };
        let roots = certificates.map(|certificates| {
            let mut store = RootCertStore::empty();
            // Some of what a system trusts is too old to be read; the rest counts.
            store.add_parsable_certificates(certificates.iter().cloned());
            Roots { store, certificates }
        });
        Ok(Verifier {
            roots,
            check_name: options.mode == SslMode::VerifyFull,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn verify_chain(
        &self,
        roots: &Roots,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let result = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots.store,
            intermediates,
            now,
            self.algorithms.all,
        );
        match result {
            // What `openssl req -x509` makes: a server certificate that is its own authority. It
            // counts if it is itself given as root; its validity was checked before this.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(error)))
                if is_own_authority(&error)
                    && roots.certificates.iter().any(|root| **root == **end_entity) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// The error's type belongs to a crate that is not otherwise needed; an unknown one is refused.
fn is_own_authority(error: &rustls::OtherError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(Error::new(Kind::Argument, "the system has no trusted certificates")
            .hint("Install the package ca-certificates, or give a file in sslrootcert."));
    }
    Ok(found.certs)
}

/// The alternative names of a certificate count; where it has none its common name does, as in
/// libpq.
fn verify_name(
    end_entity: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(end_entity)?;
    let Err(error) = verify_server_name(&parsed, server_name) else { return Ok(()) };
    match certificate::common_name(end_entity) {
        Some(name) if certificate::name_matches(&name, &server_name.to_str()) => Ok(()),
        _ => Err(error),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            self.verify_chain(roots, end_entity, intermediates, now)?;
        }
        if self.check_name {
            verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let result = crypto::verify_tls13_signature(message, cert, dss, &self.algorithms);
        match (&result, certificate::public_key(cert)) {
            // Version 1, as older openssl makes them: the library reads no other version than 3.
            // The signature counts as ever; the chain of such a certificate is never accepted.
            (Err(rustls::Error::InvalidCertificate(_)), Some(key)) => {
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
            }
            _ => result,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
