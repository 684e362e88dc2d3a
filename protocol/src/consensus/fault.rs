//! What can be wrong with a document: each fault apart, so that whoever holds it knows what to do about it.

use super::ProtocolNumber;
use crate::{Error, ErrorKind};

/// Why a document is not taken, or not used now. An [`Error`] carries it beside its sentence: see [`Error::fault`].
/// (spec: DOC-12)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DocumentFault {
    /// It is older than the one held.
    Rollback,
    /// It is another one of the same epoch as one that is known: both cannot be the network's.
    Fork,
    /// It comes right after the one held, and does not name it as the one before.
    BrokenChain,
    /// It does not hold yet.
    Future,
    /// It does not hold any more.
    Expired,
    /// Fewer authorities have signed it than the network demands.
    TooFewSigners,
    /// An authority is there twice among its signers.
    DuplicateSigner,
    /// A signature is not one of the authority that it names.
    WrongSignature,
    /// It has a field of a later version that must be understood.
    UnknownField,
    /// Its bytes are not the one encoding of what they say.
    NotCanonical,
    /// It is of another network.
    OtherNetwork,
    /// Its format is of another version.
    OtherFormat,
    /// The network demands this protocol, and this build does not speak it.
    NotSpoken(ProtocolNumber),
    /// A diff that begins at another document, or does not lead to the one that it names.
    WrongDiff,
}

impl DocumentFault {
    /// Who is to blame.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Rollback => ErrorKind::Replayed,
            Self::Fork | Self::BrokenChain | Self::TooFewSigners | Self::WrongSignature | Self::WrongDiff => {
                ErrorKind::Forged
            }
            Self::Future | Self::Expired => ErrorKind::Expired,
            Self::DuplicateSigner | Self::NotCanonical => ErrorKind::Malformed,
            Self::UnknownField | Self::OtherNetwork | Self::OtherFormat | Self::NotSpoken(_) => {
                ErrorKind::Incompatible
            }
        }
    }

    /// The fault in one word, for programs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Fork => "fork",
            Self::BrokenChain => "broken-chain",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::TooFewSigners => "too-few-signers",
            Self::DuplicateSigner => "duplicate-signer",
            Self::WrongSignature => "wrong-signature",
            Self::UnknownField => "unknown-field",
            Self::NotCanonical => "not-canonical",
            Self::OtherNetwork => "other-network",
            Self::OtherFormat => "other-format",
            Self::NotSpoken(_) => "not-spoken",
            Self::WrongDiff => "wrong-diff",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Rollback => "the consensus is older than the one held",
            Self::Fork => "the authorities signed two documents for one epoch",
            Self::BrokenChain => "the consensus does not follow from the one held",
            Self::Future => "the consensus is from the future: is this machine's clock right?",
            Self::Expired => "the consensus is too old to use: no newer one has arrived",
            Self::TooFewSigners => "the consensus has too few signatures of this network's authorities",
            Self::DuplicateSigner => "an authority has signed the consensus twice",
            Self::WrongSignature => "an authority's signature on the consensus is wrong",
            Self::UnknownField => {
                "the document has a field that this version does not know and must: upgrade"
            }
            Self::NotCanonical => "the document is not in its canonical encoding",
            Self::OtherNetwork => "the consensus is of another network",
            Self::OtherFormat => "the document's format is of another version: upgrade the older side",
            Self::NotSpoken(_) => "the network requires a protocol that this version does not speak: upgrade",
            Self::WrongDiff => "the diff does not lead from the consensus held to the one that it names",
        }
    }
}

impl From<DocumentFault> for Error {
    fn from(fault: DocumentFault) -> Self {
        match fault {
            DocumentFault::NotSpoken(number) => fault
                .saying(format!("the network requires {number}, which this version does not speak: upgrade")),
            fault => fault.saying(fault.sentence()),
        }
    }
}
