//! The few parts of an X.509 certificate that TLS itself does not hand out: the hash for SCRAM's
//! channel binding and the common name. Reads DER and never trusts a length.

use ring::digest;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const VERSION: u8 = 0xA0;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17 as an element, tag and length included.
const SUBJECT_ALT_NAME: &[u8] = &[OBJECT, 3, 0x55, 0x1D, 0x11];

/// Signature algorithms and the hash that each uses; MD5 and SHA-1 count as SHA-256 (RFC 5929).
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
const ECDSA_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];
const ECDSA_SHA2: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];

/// tls-server-end-point: the certificate's hash. None for a signature algorithm without a hash of
/// its own (Ed25519) or with parameters (RSASSA-PSS).
pub(super) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, content, _) = element(certificate)?;
    let (_, _, rest) = element(content)?;
    let (_, algorithm, _) = expect(SEQUENCE, rest)?;
    let (_, object, _) = expect(OBJECT, algorithm)?;
    let (last, family) = object.split_last()?;
    let hash = match (family, last) {
        (RSA, 4 | 5 | 11) => &digest::SHA256,
        (RSA, 12) => &digest::SHA384,
        (RSA, 13) => &digest::SHA512,
        (ECDSA_SHA2, 2) => &digest::SHA256,
        (ECDSA_SHA2, 3) => &digest::SHA384,
        (ECDSA_SHA2, 4) => &digest::SHA512,
        _ if object == ECDSA_SHA1 => &digest::SHA256,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_owned())
}

/// Subject (its content) and public key (the whole element), and what follows them.
fn subject_and_key(certificate: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (_, content, _) = expect(SEQUENCE, certificate)?;
    let (_, mut body, _) = expect(SEQUENCE, content)?;
    if *body.first()? == VERSION {
        body = element(body)?.2;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        body = element(body)?.2;
    }
    let (_, subject, rest) = expect(SEQUENCE, body)?;
    let (_, _, after) = expect(SEQUENCE, rest)?;
    Some((subject, &rest[..rest.len() - after.len()], after))
}

/// The public key with its algorithm (SubjectPublicKeyInfo).
pub(super) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    subject_and_key(certificate).map(|(_, key, _)| key)
}

/// The subject's common name, if the certificate has no alternative names that count instead.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (mut subject, _, rest) = subject_and_key(certificate)?;
    if rest.windows(SUBJECT_ALT_NAME.len()).any(|window| window == SUBJECT_ALT_NAME) {
        return None;
    }
    let mut found = None;
    while !subject.is_empty() {
        let (_, mut attributes, after) = expect(SET, subject)?;
        subject = after;
        while !attributes.is_empty() {
            let (_, attribute, after) = expect(SEQUENCE, attributes)?;
            attributes = after;
            let (_, object, value) = expect(OBJECT, attribute)?;
            if object == COMMON_NAME {
                let (_, text, _) = element(value)?;
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    // A zero byte inside is an old trick against C programs.
    found.filter(|name| !name.contains('\0'))
}

type Element<'a> = (u8, &'a [u8], &'a [u8]);

/// Tag, content and what follows.
fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

fn expect(tag: u8, input: &[u8]) -> Option<Element<'_>> {
    element(input).filter(|(found, _, _)| *found == tag)
}

/// Whether the name of a certificate is for this host; `*.` stands for exactly one label.
pub(super) fn name_matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain)
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::CertificateDer;

    use super::*;

    /// CN=db.example without alternative names; ECDSA with SHA-384.
    const NAMED: &str = "\
-----BEGIN CERTIFICATE-----
MIIBjDCCATKgAwIBAgIBATAKBggqhkjOPQQDAzAkMQ0wCwYDVQQKDARUcmVtMRMw
EQYDVQQDDApkYi5leGFtcGxlMCAXDTI2MTEyMTAyMTU1OVoYDzIxMjYxMDI4MDIx
NTU5WjAkMQ0wCwYDVQQKDARUcmVtMRMwEQYDVQQDDApkYi5leGFtcGxlMFkwEwYH
KoZIzj0CAQYIKoZIzj0DAQcDQgAEK4cFWn77GjT2bAq1CDWuBssQycoe+3WeGdhy
dHCTZclzWzA7mB+DHEL4+w4S7F+n0QUX7CZBW3CGx7G8vY+zhqNTMFEwHQYDVR0O
BBYEFMkPg4fEEUmnINoV/6O66QrrChxSMB8GA1UdIwQYMBaAFMkPg4fEEUmnINoV
/6O66QrrChxSMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwMDSAAwRQIgOdHq
EkH2KJNVyX11vvgzq5adAdt55YOK5u7MprZYgx8CIQCK6et9LULG/AN3jHIh/7p4
bdqNcjvN3sLKnTB/1CO7Jg==
-----END CERTIFICATE-----";
    /// CN=db.example, alternative name other.example; ECDSA with SHA-256.
    const ALTERNATIVE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBiTCCAS6gAwIBAgIBATAKBggqhkjOPQQDAjAVMRMwEQYDVQQDDApkYi5leGFt
cGxlMCAXDTI2MTEyMTAyMTU1OVoYDzIxMjYxMDI4MDIxNTU5WjAVMRMwEQYDVQQD
DApkYi5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqtu5+wsyC901
F7HZ/DUfi2qqEOdctTfgyortqPH4vzEUjFcoA1HTxCG9iLbUM9gINr/q71nB4IX9
Y75BlFZmmKNtMGswHQYDVR0OBBYEFJ9S41L3wrUsFoi4JFa85wRJk9JoMB8GA1Ud
IwQYMBaAFJ9S41L3wrUsFoi4JFa85wRJk9JoMA8GA1UdEwEB/wQFMAMBAf8wGAYD
VR0RBBEwD4INb3RoZXIuZXhhbXBsZTAKBggqhkjOPQQDAgNJADBGAiEA0kNLNVha
0T/xubctAmySCmY3U6fioLJ3NgZekLaBdMgCIQDxbsoXJUs6hHsbuH3YflYvbkGE
9mROE+dCzq96MNoEJw==
-----END CERTIFICATE-----";

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_end_point_is_the_hash_that_openssl_computes() {
        let sha384 = "6404038cee37ce315248389f235c6f24c3a1d5be53b298b5\
                      a30e8147efe54eb19ab09ddb98a49f5383a7f4862a824506";
        assert_eq!(end_point(&certificate(NAMED)).map(|hash| hex(&hash)).as_deref(), Some(sha384));
        let sha256 = "58e9f69ffdacd0e284fe93c0e8a0718474bd2443e2c42b0b3a5915dc0d34a703";
        let found = end_point(&certificate(ALTERNATIVE)).map(|hash| hex(&hash));
        assert_eq!(found.as_deref(), Some(sha256));
    }

    #[test]
    fn the_common_name_counts_only_without_alternative_names() {
        assert_eq!(common_name(&certificate(NAMED)).as_deref(), Some("db.example"));
        assert_eq!(common_name(&certificate(ALTERNATIVE)), None);
    }

    #[test]
    fn a_certificate_cut_short_is_read_without_panic() {
        let whole = certificate(NAMED);
        for cut in 0..whole.len() {
            assert_eq!(end_point(&whole[..cut]), None);
            assert_eq!(common_name(&whole[..cut]), None);
            assert_eq!(public_key(&whole[..cut]), None);
        }
    }

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(name_matches("db.example", "DB.example"));
        assert!(name_matches("*.example", "db.example"));
        assert!(!name_matches("*.example", "a.db.example"));
        assert!(!name_matches("*.example", ".example"));
        assert!(!name_matches("*.example", "example"));
    }
}
