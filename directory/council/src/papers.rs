//! The votes on one document, and the descriptors that they name: what is here, and what is missing.

use crate::engine::{Digest, Height, VoteList};
use crate::evidence::Proof;
use crate::seats::{Seat, Seats};
use crate::vote::SignedVote;
use mizzle_protocol::consensus::{Descriptor, DocumentHash};
use mizzle_protocol::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A relay's descriptor, and the bytes that it signed.
#[derive(Clone, Debug)]
pub(crate) struct Paper {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) bytes: Arc<[u8]>,
}

/// What is held.
#[derive(Debug, Default)]
pub(crate) struct Papers {
    votes: BTreeMap<Digest, SignedVote>,
    descriptors: BTreeMap<Digest, Paper>,
    /// Descriptors that are none, so that nobody is asked for them again and again.
    refused: BTreeSet<Digest>,
}

/// How a list of votes stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All of it is here.
    Sound,
    /// Some of it has still to come.
    Missing,
    /// No document can be made of it.
    Unsound,
}

impl Papers {
    /// Forgets the votes, and descriptors that only they named.
    pub(crate) fn clear(&mut self) {
        let named: BTreeSet<_> = self
            .votes
            .values()
            .flat_map(|vote| vote.vote.relays.iter().map(|seen| seen.descriptor))
            .collect();
        self.descriptors.retain(|digest, _| named.contains(digest));
        self.votes.clear();
        self.refused.clear();
    }

    /// Takes a vote on the document `height` that follows `previous`; `wanted` if a list names it. Returns a
    /// proof if its authority has said something else before.
    ///
    /// [`ErrorKind::Refused`] if it is on another document, or one too many.
    pub(crate) fn take(
        &mut self,
        signed: SignedVote,
        height: Height,
        previous: Option<DocumentHash>,
        wanted: bool,
    ) -> Result<Option<Proof>> {
        if self.votes.contains_key(&signed.digest) {
            return Ok(None);
        }
        if signed.vote.height != height || signed.vote.previous != previous {
            return Err(Error::new(ErrorKind::Refused, "the vote is on another document"));
        }
        let others: Vec<_> = self.votes.values().filter(|other| other.seat == signed.seat).collect();
        let twin = others
            .iter()
            .find(|other| other.vote.attempt == signed.vote.attempt && other.vote != signed.vote)
            .map(|other| Proof::Votes(other.bytes().to_vec(), signed.bytes().to_vec()));
        if others.len() >= VOTES_OF_ONE && !wanted {
            // Those of former attempts make room; twins do not.
            let oldest = others
                .iter()
                .filter(|other| other.vote.attempt < signed.vote.attempt)
                .min_by_key(|other| (other.vote.attempt, other.digest))
                .map(|other| other.digest);
            match oldest {
                Some(digest) => self.votes.remove(&digest),
                None => return Err(Error::new(ErrorKind::Refused, "that authority has voted often enough")),
            };
        }
        self.votes.insert(signed.digest, signed);
        Ok(twin)
    }

    /// Takes a descriptor, if a vote names it.
    ///
    /// Errors as [`Descriptor::from_signed_bytes`].
    pub(crate) fn take_descriptor(&mut self, bytes: &[u8], network: &str) -> Result<()> {
        let digest = Digest::of(bytes);
        if self.descriptors.contains_key(&digest) || !self.is_named(&digest) {
            return Ok(());
        }
        match Descriptor::from_signed_bytes(bytes, network) {
            Ok(descriptor) => {
                self.insert(digest, Paper { descriptor: Arc::new(descriptor), bytes: bytes.into() });
                Ok(())
            }
            Err(error) => {
                self.refused.insert(digest);
                Err(error)
            }
        }
    }

    /// One that is known to be sound.
    pub(crate) fn insert(&mut self, digest: Digest, paper: Paper) {
        self.descriptors.insert(digest, paper);
    }

    fn is_named(&self, digest: &Digest) -> bool {
        self.votes.values().any(|vote| vote.vote.relays.iter().any(|seen| seen.descriptor == *digest))
    }

    pub(crate) fn vote(&self, digest: &Digest) -> Option<&SignedVote> {
        self.votes.get(digest)
    }

    pub(crate) fn descriptor(&self, digest: &Digest) -> Option<&Paper> {
        self.descriptors.get(digest)
    }

    /// True if all descriptors that the vote names are here, each of the relay that it is said to be of.
    pub(crate) fn is_complete(&self, vote: &SignedVote) -> bool {
        vote.vote.relays.iter().all(|seen| {
            self.descriptors.get(&seen.descriptor).is_some_and(|paper| paper.descriptor.relay == seen.relay)
        })
    }

    /// Of each authority the newest vote that is complete.
    pub(crate) fn complete(&self) -> BTreeMap<Seat, &SignedVote> {
        let mut newest: BTreeMap<Seat, &SignedVote> = BTreeMap::new();
        for vote in self.votes.values().filter(|vote| self.is_complete(vote)) {
            let held = newest.entry(vote.seat).or_insert(vote);
            if held.vote.attempt < vote.vote.attempt {
                *held = vote;
            }
        }
        newest
    }

    /// Who has voted at all.
    pub(crate) fn voters(&self) -> BTreeSet<Seat> {
        self.votes.values().map(|vote| vote.seat).collect()
    }

    /// Whether a document can be made of `list`. (spec: COUNCIL-6)
    pub(crate) fn judge(&self, seats: &Seats, list: &VoteList) -> Standing {
        let VoteList(list) = list;
        let in_order = list.is_sorted_by(|(one, _), (other, _)| one < other);
        let sit = list.iter().all(|(seat, _)| seats.authority(*seat).is_some());
        if list.len() < seats.quorum() || !in_order || !sit {
            return Standing::Unsound;
        }
        let mut standing = Standing::Sound;
        for (seat, digest) in list {
            match self.votes.get(digest) {
                Some(vote) if vote.seat != *seat => return Standing::Unsound,
                Some(vote) if self.is_complete(vote) => {}
                Some(_) | None => standing = Standing::Missing,
            }
        }
        standing
    }

    /// The votes of a list.
    pub(crate) fn votes_of(&self, list: &VoteList) -> Vec<&SignedVote> {
        list.0.iter().filter_map(|(_, digest)| self.votes.get(digest)).collect()
    }

    /// What is missing of these lists, and of the votes that are here; at most `most`.
    pub(crate) fn missing<'a>(&self, lists: impl Iterator<Item = &'a VoteList>, most: usize) -> Vec<Digest> {
        let votes = lists.flat_map(|list| list.0.iter().map(|(_, digest)| *digest));
        let votes = votes.filter(|digest| !self.votes.contains_key(digest));
        let named = self.votes.values().flat_map(|vote| vote.vote.relays.iter().map(|seen| seen.descriptor));
        let named =
            named.filter(|digest| !self.descriptors.contains_key(digest) && !self.refused.contains(digest));
        let missing: BTreeSet<_> = votes.chain(named).collect();
        missing.into_iter().take(most).collect()
    }
}

/// Votes of one authority that are kept, when no list asks for more.
const VOTES_OF_ONE: usize = 4;
