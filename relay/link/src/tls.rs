//! The handshake: TLS 1.3, hybrid key exchange, raw Ed25519 keys, nothing kept for a second time.

use crate::error::protocol;
use crate::{Error, Identity, Result, Way, raw_key};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::RelayId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An open link: reads and writes are confidential and come from the identity that was proven.
pub type Link = tokio_rustls::TlsStream<TcpStream>;

/// How long connecting and shaking hands may take together.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// What a link carries; agreed in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Cells: `mizzle/1`.
    Cells,
    /// Documents: `http/1.1`.
    Documents,
}

impl Alpn {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cells, Self::Documents];

    /// Its name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Cells => b"mizzle/1",
            Self::Documents => b"http/1.1",
        }
    }
}

/// Opens a link to the relay or authority `expected` at `address`.
///
/// With `me` the link is a relay's, and proves it; without, a client's. `bind` is the source address.
/// Fails when the peer does not prove `expected`, does not speak `alpn`, or takes longer than
/// [`HANDSHAKE_TIME`].
pub async fn dial(
    address: SocketAddr,
    expected: RelayId,
    me: Option<&Identity>,
    alpn: Alpn,
    bind: Option<IpAddr>,
) -> Result<Link> {
    dial_by(&Way::from(bind), address, expected, me, alpn).await
}

/// The same by a way that may lead through a proxy.
pub async fn dial_by(
    way: &Way,
    address: SocketAddr,
    expected: RelayId,
    me: Option<&Identity>,
    alpn: Alpn,
) -> Result<Link> {
    let connector = TlsConnector::from(Arc::new(client_config(expected, me, alpn)?));
    let connect = async {
        let stream = way.open(address).await?;
        // Peers are known by key, not by name; a name is not sent for an address.
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        connector.connect(name, stream).await.map_err(|error| Error::io("shake hands with the peer", error))
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIME, connect)
        .await
        .map_err(|_| Error::TimedOut { waiting_for: "the peer's handshake" })??;
    if stream.get_ref().1.alpn_protocol() != Some(alpn.name()) {
        return Err(protocol(ErrorKind::Incompatible, "the peer does not speak this link's protocol"));
    }
    Ok(stream.into())
}

/// Shakes hands with whoever dials. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// A link that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The link.
    pub stream: Link,
    /// Who it is, if it proved an identity: a relay. `None`: a client.
    pub peer: Option<RelayId>,
    /// What it carries.
    pub alpn: Alpn,
}

impl Acceptor {
    /// Proves `identity` to every dialler, and agrees to carry what is in `offered`.
    pub fn new(identity: &Identity, offered: &[Alpn]) -> Result<Self> {
        let provider = provider();
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyEd25519))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(identity)?)));
        config.alpn_protocols = offered.iter().map(|alpn| alpn.name().to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Shakes hands on a connection that was accepted; gives up after [`HANDSHAKE_TIME`].
    pub async fn accept(&self, stream: TcpStream) -> Result<Accepted> {
        let failed = |error| Error::io("shake hands with the peer", error);
        stream.set_nodelay(true).map_err(failed)?;
        let stream = tokio::time::timeout(HANDSHAKE_TIME, self.acceptor.accept(stream))
            .await
            .map_err(|_| Error::TimedOut { waiting_for: "the peer's handshake" })?
            .map_err(failed)?;
        let connection = stream.get_ref().1;
        let name = connection.alpn_protocol();
        let alpn = Alpn::ALL
            .into_iter()
            .find(|alpn| name == Some(alpn.name()))
            .ok_or_else(|| protocol(ErrorKind::Incompatible, "the peer named no protocol of this port"))?;
        let peer = match connection.peer_certificates() {
            Some([key]) => Some(shown_key(key)?),
            Some([]) | None => None,
            Some(_) => return Err(protocol(ErrorKind::Malformed, "the peer showed several keys")),
        };
        Ok(Accepted { stream: stream.into(), peer, alpn })
    }
}

fn client_config(expected: RelayId, me: Option<&Identity>, alpn: Alpn) -> Result<ClientConfig> {
    let resolver: Arc<dyn ResolvesClientCert> = match me {
        Some(identity) => Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(identity)?)),
        None => Arc::new(NoKey),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Expected(expected)))
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.name().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = rustls_graviola::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        // What is recorded today must stay closed to a quantum computer tomorrow: the hybrid, or no link.
        provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::X25519MLKEM768);
        Arc::new(provider)
    };
    PROVIDER.get_or_init(make).clone()
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>> {
    let (secret, public) = identity.to_der()?;
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.to_vec()));
    let key = provider().key_provider.load_private_key(secret)?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key)))
}

/// The key that a peer shows in its handshake.
fn shown_key(der: &[u8]) -> Result<RelayId, rustls::Error> {
    raw_key::read(der).ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn verify(
    message: &[u8],
    key: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(key.as_ref()),
        signature,
        &provider().signature_verification_algorithms,
    )
}

fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
}

/// A dialler without an identity: it still says that it understands raw keys.
#[derive(Debug)]
struct NoKey;

impl ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Accepts one key only: that of the relay that was wanted.
#[derive(Debug)]
struct Expected(RelayId);

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if others.is_empty() && shown_key(key)? == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts any Ed25519 key whose owner proves it, and diallers without one. Whether a relay of that name
/// exists is for the caller to say.
#[derive(Debug)]
struct AnyEd25519;

impl ClientCertVerifier for AnyEd25519 {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        shown_key(key).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
