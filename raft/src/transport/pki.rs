//! The fleet's certificate authority, and the identities that it signs.
//!
//! A node *is* its Ed25519 key and the number in its certificate; addresses are hints. The authority signs a key for a
//! number and takes nothing else from a signing request, so that a joiner cannot ask for rights. Owns every private key
//! of the transport: none is ever printed, and each is wiped when dropped.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::{Zeroize, Zeroizing};

use super::name;
use super::pem;
use crate::consensus::runtime::Runtime;
use crate::model::ids::{FleetId, NodeId};

/// Certificates are valid from two days before they are signed, since hosts' clocks may be hours apart and a joiner
/// must not have to wait for its own certificate.
const BACKDATED: Duration = Duration::from_secs(2 * 24 * 3600);

/// How long a node's certificate lasts. Removal from the fleet, not expiry, is what takes a node's rights away.
const NODE_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long the authority's certificate lasts; longer than any certificate that it signs in its first ten years.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// A signing request holds a 32-byte key and a 64-byte signature; far more than this is not one.
const SIGNING_REQUEST_MAX_BYTES: usize = 4 << 10;

/// PKCS #8 v1 around a raw Ed25519 seed (RFC 8410, section 7): everything before the 32 bytes of the seed.
const PKCS8_ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a key, certificate or signing request cannot be used. None is worth a retry with the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The bytes are not what they should be: a damaged or foreign file.
    #[error("this is not a valid {what}: {detail}")]
    Malformed { what: &'static str, detail: String },
    /// Whoever asked to have its key signed sent something that cannot be signed.
    #[error("the signing request cannot be signed: {0}")]
    SigningRequest(String),
    #[error(
        "the private key does not belong to the certificate of {0}; one of the two files is from elsewhere"
    )]
    KeyMismatch(String),
    #[error("the certificate of {0} was not signed by this fleet's authority; it is from another fleet")]
    ForeignAuthority(String),
    /// The certificate's name is not that of a node of this fleet.
    #[error("the certificate does not name a node of fleet {fleet}: {detail}")]
    Name { fleet: FleetId, detail: String },
}

fn malformed(what: &'static str, detail: impl fmt::Display) -> PkiError {
    PkiError::Malformed { what, detail: detail.to_string() }
}

/// An Ed25519 private key, wiped when dropped and never printed.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(redacted)")
    }
}

/// rcgen's key pair, which does not wipe itself.
struct Signer(KeyPair);

impl Drop for Signer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl NodeKey {
    /// A new key, from the runtime's entropy.
    pub fn generate<R: Runtime>() -> Self {
        let mut seed = Zeroizing::new([0u8; 32]);
        R::entropy(&mut seed[..]);
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_ED25519_PREFIX.len() + seed.len()));
        pkcs8.extend_from_slice(&PKCS8_ED25519_PREFIX);
        pkcs8.extend_from_slice(&seed[..]);
        Self { pkcs8 }
    }

    /// Reads what [`NodeKey::to_pem`] wrote.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        let pkcs8 = Zeroizing::new(pem::decode(text, pem::PRIVATE_KEY)?);
        let key = Self { pkcs8 };
        key.signer()?;
        Ok(key)
    }

    /// PEM, PKCS #8.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode(&self.pkcs8, pem::PRIVATE_KEY)
    }

    /// A PKCS #10 signing request for this key, DER. It proves possession of the key; nothing else in it counts.
    pub fn signing_request(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.signer()?.0).map_err(|e| malformed("private key", e))?;
        Ok(request.der().to_vec())
    }

    /// The raw public key.
    pub fn public_key(&self) -> Result<[u8; 32], PkiError> {
        let signer = self.signer()?;
        signer
            .0
            .public_key_raw()
            .try_into()
            .map_err(|_| malformed("Ed25519 private key", "its public key is not 32 bytes"))
    }

    /// A secret of this key's own for `purpose`, the same after every restart.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.pkcs8)
    }

    pub(super) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    fn signer(&self) -> Result<Signer, PkiError> {
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(&self.pkcs8[..]), &PKCS_ED25519)
            .map(Signer)
            .map_err(|e| malformed("Ed25519 private key", e))
    }
}

impl Clone for NodeKey {
    fn clone(&self) -> Self {
        Self { pkcs8: self.pkcs8.clone() }
    }
}

/// The fleet's certificate authority: its certificate, and the key that signs nodes.
#[derive(Debug, Clone)]
pub struct Authority {
    fleet: FleetId,
    certificate: CertificateDer<'static>,
    key: NodeKey,
}

impl Authority {
    /// Makes the authority of a new fleet.
    pub fn create<R: Runtime>(fleet: FleetId) -> Result<Self, PkiError> {
        let key = NodeKey::generate::<R>();
        let mut params = CertificateParams::default();
        params.distinguished_name = name::authority(fleet);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(serial::<R>(NodeId(0)));
        set_validity::<R>(&mut params, AUTHORITY_VALIDITY);
        let certificate = params.self_signed(&key.signer()?.0).map_err(|e| malformed("authority", e))?;
        Ok(Self { fleet, certificate: certificate.into(), key })
    }

    /// Puts the authority together from its stored parts; an error if they do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let certificate = CertificateDer::from(pem::decode(certificate, pem::CERTIFICATE)?);
        let key = NodeKey::from_pem(key)?;
        let fleet = name::fleet_of(&certificate)?;
        if name::public_key_of(&certificate)? != key.public_key()? {
            return Err(PkiError::KeyMismatch(format!("the authority of fleet {fleet}")));
        }
        Ok(Self { fleet, certificate, key })
    }

    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// DER of the authority's certificate: public, and what every node trusts.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn certificate_pem(&self) -> String {
        pem::encode(&self.certificate, pem::CERTIFICATE).to_string()
    }

    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// What a join token carries to recognise this authority by.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Signs the key of a PKCS #10 request (DER) for node `node`; returns the certificate, DER. The request must be
    /// signed with the key that it carries, and the key must be Ed25519; whatever else it asks for is ignored.
    pub fn sign<R: Runtime>(&self, signing_request: &[u8], node: NodeId) -> Result<Vec<u8>, PkiError> {
        let public_key = requested_key(signing_request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let dns = name::dns_name(node, self.fleet);
        params.distinguished_name.push(DnType::CommonName, dns.as_str());
        let dns = dns.try_into().map_err(|e| malformed("node name", e))?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial::<R>(node));
        set_validity::<R>(&mut params, NODE_VALIDITY);
        let signer = self.key.signer()?;
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &signer.0).map_err(|e| malformed("authority", e))?;
        let certificate =
            params.signed_by(&public_key, &issuer).map_err(|e| malformed("signing request", e))?;
        Ok(certificate.der().to_vec())
    }

    /// An identity for node `node` with a new key; for the node that founds the fleet, and for tests.
    pub fn issue<R: Runtime>(&self, node: NodeId) -> Result<Identity, PkiError> {
        let key = NodeKey::generate::<R>();
        let certificate = self.sign::<R>(&key.signing_request()?, node)?;
        Identity::new(key, certificate, self.certificate.to_vec())
    }
}

/// Checks a signing request (PKCS #10, DER) and gives the raw Ed25519 key that it proves possession of.
pub fn requested_public_key(signing_request: &[u8]) -> Result<[u8; 32], PkiError> {
    let key = requested_key(signing_request)?;
    let wrong = |_| PkiError::SigningRequest("its key is not 32 bytes".into());
    rcgen::PublicKeyData::der_bytes(&key).try_into().map_err(wrong)
}

/// Checks a signing request and gives the one thing that is taken from it.
fn requested_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, PkiError> {
    let refuse = |why: String| PkiError::SigningRequest(why);
    if der.len() > SIGNING_REQUEST_MAX_BYTES {
        return Err(refuse(format!("{} bytes is over the limit of {SIGNING_REQUEST_MAX_BYTES}", der.len())));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| refuse(e.to_string()))?;
    if !rest.is_empty() {
        return Err(refuse(format!("{} bytes follow it", rest.len())));
    }
    request.verify_signature().map_err(|_| refuse("it is not signed with the key that it carries".into()))?;
    let info = &request.certification_request_info.subject_pki;
    if !name::is_ed25519(info) {
        return Err(refuse("its key is not an Ed25519 key".into()));
    }
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|e| refuse(e.to_string()))
}

/// BLAKE3 of an authority's certificate (DER).
pub fn fingerprint(authority: &[u8]) -> [u8; 32] {
    *blake3::hash(authority).as_bytes()
}

fn serial<R: Runtime>(node: NodeId) -> SerialNumber {
    // RFC 5280, section 4.1.2.2: positive, and at most 20 octets.
    let mut bytes = [0u8; 17];
    bytes[0] = 1;
    bytes[1..9].copy_from_slice(&node.0.to_be_bytes());
    R::entropy(&mut bytes[9..]);
    SerialNumber::from_slice(&bytes)
}

fn set_validity<R: Runtime>(params: &mut CertificateParams, validity: Duration) {
    let now = Duration::from_millis(R::unix_time_ms());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + validity;
}

/// All that a node needs to be recognised by its peers, and to recognise them.
#[derive(Debug, Clone)]
pub struct Identity {
    fleet: FleetId,
    node: NodeId,
    key: NodeKey,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

impl Identity {
    /// Puts an identity together from a key and two certificates (DER): the node's and the authority's. Fleet and node
    /// id are read from them. An error if they do not belong together.
    pub fn new(key: NodeKey, certificate: Vec<u8>, authority: Vec<u8>) -> Result<Self, PkiError> {
        let authority = CertificateDer::from(authority);
        let certificate = CertificateDer::from(certificate);
        let fleet = name::fleet_of(&authority)?;
        if !name::signed_by(&certificate, &authority)? {
            return Err(PkiError::ForeignAuthority(name::describe(&certificate)));
        }
        let node = name::node_id_of(&certificate, fleet)?;
        if name::public_key_of(&certificate)? != key.public_key()? {
            return Err(PkiError::KeyMismatch(node.to_string()));
        }
        Ok(Self { fleet, node, key, certificate, authority })
    }

    /// As [`Identity::new`], from PEM.
    pub fn from_pem(key: &[u8], certificate: &[u8], authority: &[u8]) -> Result<Self, PkiError> {
        Self::new(
            NodeKey::from_pem(key)?,
            pem::decode(certificate, pem::CERTIFICATE)?,
            pem::decode(authority, pem::CERTIFICATE)?,
        )
    }

    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    pub fn certificate_pem(&self) -> String {
        pem::encode(&self.certificate, pem::CERTIFICATE).to_string()
    }

    pub fn authority_pem(&self) -> String {
        pem::encode(&self.authority, pem::CERTIFICATE).to_string()
    }

    pub fn authority_fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.authority)
    }

    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The chain that this node presents: its own certificate, then the authority's, which a joiner recognises by its
    /// fingerprint.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.authority.clone()]
    }
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
