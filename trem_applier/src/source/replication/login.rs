//! Start-up and authentication of a replication connection: trust, password, md5, SCRAM with and
//! without channel binding.

use std::collections::HashMap;

use bytes::{Buf, Bytes};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;

use super::wire::{invalid, take_text, Wire};
use crate::conninfo::{ChannelBinding, ConnInfo, Host};
use crate::error::{Error, Kind, Result};

/// The parameters that the server reports, by name.
pub(super) async fn login(
    wire: &mut Wire,
    info: &ConnInfo,
    host: &Host,
) -> Result<HashMap<String, String>> {
    let mut parameters = vec![
        ("user", info.user.as_str()),
        ("database", &info.dbname),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", &info.application_name),
    ];
    parameters.extend(info.options.as_deref().map(|options| ("options", options)));
    frontend::startup_message(parameters, wire.output())?;
    wire.flush().await?;
    authenticate(wire, info, host).await?;
    read_parameters(wire).await
}

async fn authenticate(wire: &mut Wire, info: &ConnInfo, host: &Host) -> Result<()> {
    let (code, mut body) = read_request(wire).await?;
    let password = || {
        info.password_for(host).ok_or_else(|| {
            Error::new(Kind::Authentication, "the server asks for a password and none is given")
                .hint(crate::error::PASSWORD_HINT)
        })
    };
    if code != 10 && info.channel_binding == ChannelBinding::Require {
        return Err(no_channel_binding());
    }
    match code {
        0 => return Ok(()),
        3 => frontend::password_message(password()?.as_bytes(), wire.output())?,
        5 => {
            let salt = body.try_get_u32().map_err(|_| invalid("salt"))?.to_be_bytes();
            let hash = md5_hash(info.user.as_bytes(), password()?.as_bytes(), salt);
            frontend::password_message(hash.as_bytes(), wire.output())?;
        }
        10 => authenticate_scram(wire, info, &password()?, body).await?,
        _ => {
            let message = "the server asks for an authentication method that is not supported";
            return Err(Error::new(Kind::Authentication, message));
        }
    }
    wire.flush().await?;
    match read_request(wire).await? {
        (0, _) => Ok(()),
        _ => Err(invalid("authentication request")),
    }
}

/// The server proves that it knows the password, too: its last message must be there and right.
async fn authenticate_scram(
    wire: &mut Wire,
    info: &ConnInfo,
    password: &str,
    mut mechanisms: Bytes,
) -> Result<()> {
    let mut offered = Vec::new();
    loop {
        match take_text(&mut mechanisms)? {
            end if end.is_empty() => break,
            mechanism => offered.push(mechanism),
        }
    }
    let offers = |mechanism: &str| offered.iter().any(|offered| offered == mechanism);
    let end_point = wire.transport().end_point().map(<[u8]>::to_owned);
    let end_point = end_point.filter(|_| info.channel_binding != ChannelBinding::Disable);
    let (mechanism, binding) = match end_point {
        Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
        }
        _ if info.channel_binding == ChannelBinding::Require => return Err(no_channel_binding()),
        Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    if !offers(mechanism) {
        return Err(Error::new(Kind::Authentication, "the server does not offer SCRAM-SHA-256"));
    }
    let refused = |error: std::io::Error| {
        Error::new(Kind::Authentication, format!("authentication by SCRAM failed: {error}"))
    };
    let mut scram = ScramSha256::new(password.as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), wire.output())?;
    wire.flush().await?;
    scram.update(&read_expected(wire, 11).await?).map_err(refused)?;
    frontend::sasl_response(scram.message(), wire.output())?;
    wire.flush().await?;
    scram.finish(&read_expected(wire, 12).await?).map_err(refused)
}

fn no_channel_binding() -> Error {
    Error::new(Kind::Authentication, "the server did not use channel binding")
}

async fn read_request(wire: &mut Wire) -> Result<(u32, Bytes)> {
    let mut message = wire.read_ok().await?;
    if message.tag != b'R' {
        return Err(invalid("tag during authentication"));
    }
    let code = message.body.try_get_u32().map_err(|_| invalid("authentication request"))?;
    Ok((code, message.body))
}

async fn read_expected(wire: &mut Wire, expected: u32) -> Result<Bytes> {
    match read_request(wire).await? {
        (code, body) if code == expected => Ok(body),
        _ => Err(invalid("authentication request")),
    }
}

async fn read_parameters(wire: &mut Wire) -> Result<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    loop {
        let mut message = wire.read_ok().await?;
        match message.tag {
            b'S' => {
                let name = take_text(&mut message.body)?;
                parameters.insert(name, take_text(&mut message.body)?);
            }
            b'K' => {}
            b'Z' => return Ok(parameters),
            _ => return Err(invalid("tag after authentication")),
        }
    }
}
