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

/// The subject's common name, if the certificate has no alternative names that count instead.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, content, _) = expect(SEQUENCE, certificate)?;
    let (_, mut body, _) = expect(SEQUENCE, content)?;
    if *body.first()? == VERSION {
        body = element(body)?.2;
    }
    // Serial number, signature algorithm, issuer, validity.
    for _ in 0..4 {
        body = element(body)?.2;
    }
    let (_, mut subject, rest) = expect(SEQUENCE, body)?;
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
