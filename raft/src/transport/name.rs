//! What certificates say: the names in them, read strictly.
//!
//! A node's certificate has exactly one alternative name, `n<id>.<fleet>.longshore`; the authority's subject names the
//! fleet. Whatever does not read exactly so is refused. Must never: trust a certificate; whoever reads a name has
//! checked the chain first, or does so next.

use rcgen::{DistinguishedName, DnType};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::pki::PkiError;
use crate::model::ids::{FleetId, NodeId};

const SUFFIX: &str = ".longshore";
const AUTHORITY_PREFIX: &str = "longshore fleet ";

/// The name that node `node`'s certificate carries, and that its peers ask for when they dial it.
pub(super) fn dns_name(node: NodeId, fleet: FleetId) -> String {
    format!("{node}.{fleet}{SUFFIX}")
}

pub(super) fn authority(fleet: FleetId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("{AUTHORITY_PREFIX}{fleet}"));
    name
}

fn parse<'a>(der: &'a [u8]) -> Result<X509Certificate<'a>, PkiError> {
    let malformed = |detail: String| PkiError::Malformed { what: "certificate", detail };
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes follow it", rest.len())));
    }
    Ok(certificate)
}

/// The node that a certificate names. Strict: one alternative name, in this fleet, written the one way there is.
pub fn node_id_of(certificate: &[u8], fleet: FleetId) -> Result<NodeId, PkiError> {
    let certificate = parse(certificate)?;
    let wrong = |detail: String| PkiError::Name { fleet, detail };
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| wrong(e.to_string()))?
        .ok_or_else(|| wrong("it has no alternative name".into()))?;
    let [GeneralName::DNSName(name)] = names.value.general_names[..] else {
        return Err(wrong(format!(
            "it has {} alternative names, not one DNS name",
            names.value.general_names.len()
        )));
    };
    parse_dns_name(name, fleet).map_err(wrong)
}

fn parse_dns_name(name: &str, fleet: FleetId) -> Result<NodeId, String> {
    let strange = || format!("{name:?} is not of the form n<id>.<fleet>{SUFFIX}");
    let (node, of_fleet) = name.strip_suffix(SUFFIX).and_then(|n| n.split_once('.')).ok_or_else(strange)?;
    let id: u64 = node.strip_prefix('n').and_then(|d| d.parse().ok()).ok_or_else(strange)?;
    if of_fleet != fleet.to_string() {
        return Err(format!("{name:?} is of another fleet"));
    }
    // `parse` takes `+3` and `03` too; there must be one way to write a name.
    if id == 0 || dns_name(NodeId(id), fleet) != name {
        return Err(strange());
    }
    Ok(NodeId(id))
}

/// The fleet that an authority's certificate names.
pub fn fleet_of(authority: &[u8]) -> Result<FleetId, PkiError> {
    let certificate = parse(authority)?;
    let malformed = |detail: &str| PkiError::Malformed { what: "fleet authority", detail: detail.into() };
    if !certificate.is_ca() {
        return Err(malformed("it is not an authority's certificate"));
    }
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(malformed("it does not have one subject name"));
    };
    let name = name.as_str().map_err(|_| malformed("its subject is not text"))?;
    let hex =
        name.strip_prefix(AUTHORITY_PREFIX).ok_or_else(|| malformed("its subject does not name a fleet"))?;
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok().and_then(|b| b.try_into().ok());
    bytes.map(FleetId).ok_or_else(|| malformed("its subject does not name a fleet by 16 bytes in hex"))
}

/// Whether `certificate` carries a valid signature by `authority`'s key. Dates are left to the handshake.
pub(super) fn signed_by(certificate: &[u8], authority: &[u8]) -> Result<bool, PkiError> {
    let (certificate, authority) = (parse(certificate)?, parse(authority)?);
    Ok(certificate.issuer() == authority.subject()
        && certificate.verify_signature(Some(authority.public_key())).is_ok())
}

pub(super) fn is_ed25519(info: &SubjectPublicKeyInfo<'_>) -> bool {
    info.algorithm.algorithm == OID_SIG_ED25519 && info.subject_public_key.data.len() == 32
}

/// The raw Ed25519 public key in a certificate.
pub(super) fn public_key_of(certificate: &[u8]) -> Result<[u8; 32], PkiError> {
    let certificate = parse(certificate)?;
    let info = certificate.public_key();
    let malformed =
        || PkiError::Malformed { what: "certificate", detail: "its key is not an Ed25519 key".into() };
    if !is_ed25519(info) {
        return Err(malformed());
    }
    info.subject_public_key.data.as_ref().try_into().map_err(|_| malformed())
}

/// For error messages: whom a certificate claims to belong to.
pub(super) fn describe(certificate: &CertificateDer<'_>) -> String {
    parse(certificate).map_or_else(|_| "an unreadable subject".into(), |c| c.subject().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_written_one_way_only() {
        let fleet = FleetId([0xab; 16]);
        let hex = fleet.to_string();
        let other = FleetId([1; 16]).to_string();
        assert_eq!(parse_dns_name(&dns_name(NodeId(3), fleet), fleet), Ok(NodeId(3)));
        assert_eq!(parse_dns_name(&dns_name(NodeId(u64::MAX), fleet), fleet), Ok(NodeId(u64::MAX)));
        let refused = [
            String::new(),
            "longshore".into(),
            format!("3.{hex}.longshore"),
            format!("n.{hex}.longshore"),
            format!("n0.{hex}.longshore"),
            format!("n03.{hex}.longshore"),
            format!("n+3.{hex}.longshore"),
            format!("n-3.{hex}.longshore"),
            format!("N3.{hex}.longshore"),
            format!("n3.{}.longshore", hex.to_uppercase()),
            format!("n3.{hex}.longshore."),
            format!("n3.{hex}"),
            format!("n3.x.{hex}.longshore"),
            format!("n18446744073709551616.{hex}.longshore"),
            format!("n3.{other}.longshore"),
            format!("*.{hex}.longshore"),
        ];
        for name in refused {
            assert!(parse_dns_name(&name, fleet).is_err(), "{name:?} was taken");
        }
    }
}
