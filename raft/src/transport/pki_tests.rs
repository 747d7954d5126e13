//! Identities: what is signed, and what does not belong together is said so.

use super::*;
use crate::consensus::runtime::TokioRuntime;

type Rt = TokioRuntime;

fn authority(byte: u8) -> Authority {
    Authority::create::<Rt>(FleetId([byte; 16])).unwrap()
}

#[test]
fn an_identity_survives_its_files() {
    let ca = authority(7);
    let identity = ca.issue::<Rt>(NodeId(3)).unwrap();
    assert_eq!((identity.node(), identity.fleet()), (NodeId(3), FleetId([7; 16])));
    let again = Identity::from_pem(
        identity.key().to_pem().as_bytes(),
        identity.certificate_pem().as_bytes(),
        identity.authority_pem().as_bytes(),
    )
    .unwrap();
    assert_eq!((again.node(), again.fleet()), (NodeId(3), FleetId([7; 16])));
    assert_eq!(again.authority_fingerprint(), ca.fingerprint());

    let ca_again = Authority::from_pem(ca.certificate_pem().as_bytes(), ca.key_pem().as_bytes()).unwrap();
    assert_eq!((ca_again.fleet(), ca_again.fingerprint()), (ca.fleet(), ca.fingerprint()));
    // What the reloaded authority signs belongs to the same fleet.
    let key = NodeKey::generate::<Rt>();
    let certificate = ca_again.sign::<Rt>(&key.signing_request().unwrap(), NodeId(9)).unwrap();
    assert_eq!(Identity::new(key, certificate, ca.certificate().to_vec()).unwrap().node(), NodeId(9));
}

#[test]
fn parts_that_do_not_belong_together_are_told_apart() {
    let (ours, theirs) = (authority(1), authority(1));
    let a = ours.issue::<Rt>(NodeId(1)).unwrap();
    let b = ours.issue::<Rt>(NodeId(2)).unwrap();
    let (ca, foreign_ca) = (ours.certificate().to_vec(), theirs.certificate().to_vec());
    let wrong_key = Identity::new(b.key().clone(), a.certificate.to_vec(), ca.clone());
    assert!(matches!(wrong_key, Err(PkiError::KeyMismatch(_))), "{wrong_key:?}");
    // The same fleet id and the same names, but another key: only the signature tells.
    let wrong_ca = Identity::new(a.key().clone(), a.certificate.to_vec(), foreign_ca);
    assert!(matches!(wrong_ca, Err(PkiError::ForeignAuthority(_))), "{wrong_ca:?}");
    let not_a_ca = Identity::new(a.key().clone(), a.certificate.to_vec(), a.certificate.to_vec());
    assert!(matches!(not_a_ca, Err(PkiError::Malformed { .. })), "{not_a_ca:?}");
    let ca_as_node = Identity::new(ours.key.clone(), ca.clone(), ca.clone());
    assert!(matches!(ca_as_node, Err(PkiError::Name { .. })), "{ca_as_node:?}");
    let mixed = Authority::from_pem(ours.certificate_pem().as_bytes(), theirs.key_pem().as_bytes());
    assert!(matches!(mixed, Err(PkiError::KeyMismatch(_))), "{mixed:?}");
    let mut damaged = a.certificate.to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let damaged = Identity::new(a.key().clone(), damaged, ca);
    assert!(matches!(damaged, Err(PkiError::ForeignAuthority(_))), "{damaged:?}");
}

#[test]
fn a_signing_request_gives_its_key_and_nothing_else() {
    let ca = authority(2);
    let key = NodeKey::generate::<Rt>();
    let mut params = CertificateParams::new(vec!["n1.other.longshore".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let greedy = params.serialize_request(&key.signer().unwrap().0).unwrap();
    let certificate = ca.sign::<Rt>(greedy.der(), NodeId(5)).unwrap();
    assert_eq!(name::node_id_of(&certificate, ca.fleet()).unwrap(), NodeId(5));
    assert!(name::fleet_of(&certificate).is_err(), "it became an authority");
    assert_eq!(name::public_key_of(&certificate).unwrap(), key.public_key().unwrap());
}

#[test]
fn bad_signing_requests_are_refused() {
    let ca = authority(3);
    let good = NodeKey::generate::<Rt>().signing_request().unwrap();
    let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let ecdsa = CertificateParams::default().serialize_request(&ecdsa).unwrap().der().to_vec();
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let table: [(&str, Vec<u8>); 6] = [
        ("empty", vec![]),
        ("random", vec![0x5a; 200]),
        ("forged", forged),
        ("trailing", trailing),
        ("not Ed25519", ecdsa),
        ("too large", vec![0x30; SIGNING_REQUEST_MAX_BYTES + 1]),
    ];
    for (what, der) in table {
        let signed = ca.sign::<Rt>(&der, NodeId(1));
        assert!(matches!(signed, Err(PkiError::SigningRequest(_))), "{what}: {signed:?}");
    }
    assert!(ca.sign::<Rt>(&good, NodeId(1)).is_ok());
    assert!(requested_public_key(&[]).is_err());
    let key = NodeKey::generate::<Rt>();
    assert_eq!(requested_public_key(&key.signing_request().unwrap()), key.public_key());
}

#[test]
fn keys_are_never_printed() {
    let ca = authority(4);
    let identity = ca.issue::<Rt>(NodeId(1)).unwrap();
    let secret = format!("{:?}", &identity.key.pkcs8[16..20]);
    for text in [format!("{:?}", identity.key()), format!("{identity:?}"), format!("{ca:?}")] {
        assert!(text.contains("redacted") && !text.contains(secret.trim_matches(['[', ']'])), "{text}");
    }
}

#[test]
fn certificates_hold_though_clocks_are_hours_apart() {
    let ca = authority(5);
    let identity = ca.issue::<Rt>(NodeId(1)).unwrap();
    let now = Rt::unix_time_ms() as i64 / 1000;
    for der in [&identity.certificate, &identity.authority] {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        let validity = certificate.validity();
        assert!(validity.not_before.timestamp() <= now - 47 * 3600);
        assert!(validity.not_after.timestamp() >= now + 9 * 365 * 24 * 3600);
    }
}
