//! Questions for names and their answers, at both ends: the client's port for programs, and the exit's resolver.

use crate::bytes::{Seed, seed};
use crate::client_question::{self, Unasked};
use crate::exit_question;
use simple_dns::RCODE;

/// A byte that says how long the question is, a question, and the rest as an answer to it.
pub fn dns(bytes: &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else { return };
    let (asked, told) = rest.split_at(rest.len().min(length.into()));
    at_exit(asked, told);
    at_client(asked, told);
}

/// What a client's message makes of an exit, and what a resolver's reply does.
fn at_exit(asked: &[u8], told: &[u8]) {
    let Some(question) = exit_question::Question::parse(asked) else { return };
    let _ = (question.host(), question.reverse(), question.wants_name(), question.is_out_of_bounds());
    let own = question.id();
    assert!(asked.starts_with(&own));
    let passed = question.renumbered(OTHER);
    assert!(exit_question::Question::parse(&passed).is_some_and(|passed| passed.id() == OTHER));
    let reply = question.reply(RCODE::NoError).unwrap();
    assert!(question.is_answered_by(&reply, own) && !exit_question::is_cut(&reply));
    assert!(exit_question::is_failure(&question.reply(RCODE::ServerFailure).unwrap()));
    for reply in [&reply, told] {
        if question.is_answered_by(reply, own) {
            let cut = question.cut(reply);
            assert!(exit_question::is_cut(&cut) && question.is_answered_by(&cut, own));
            let returned = question.returned(reply.to_vec());
            assert!(returned.len() == reply.len() && question.is_answered_by(&returned, own));
        }
    }
}

/// What a program's message makes of a client, and what an exit's reply does.
fn at_client(asked: &[u8], told: &[u8]) {
    match client_question::Question::parse(asked) {
        Err(Unasked::Silence) => {}
        Err(Unasked::Answered(reply)) => {
            assert!(reply.len() == 12 && asked.starts_with(&reply[..2]) && reply[2] & 0x80 != 0);
        }
        Ok(question) => {
            assert!(question.message() == asked);
            let own = [asked[0], asked[1]];
            let outward = question.outward(OTHER);
            let exit = exit_question::Question::parse(&outward);
            assert!(exit.is_some(), "an exit passes over what a client lets through");
            assert!(question.is_answered_by(&question.failure(), own));
            let numbered = told.first_chunk().copied().unwrap_or_default();
            if question.is_answered_by(told, numbered) {
                let reply = question.fitting(question.returned(told.to_vec()));
                assert!(reply.len() <= question.room() && question.is_answered_by(&reply, own));
                assert!(reply.len() == told.len() || client_question::is_cut(&reply));
            }
        }
    }
}

pub(crate) fn dns_seeds() -> Vec<Seed> {
    const NAME: &[u8] = b"\x01a\x04test\0\0\x01\0\x01";
    const REVERSE: &[u8] = b"\x017\x012\x010\x03192\x07in-addr\x04arpa\0\0\x0c\0\x01";
    const HEAD: &[u8] = &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const EXTENDED: &[u8] = &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    const EXTENSION: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    const ANSWERED: &[u8] = &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
    const CUT: &[u8] = &[0x12, 0x34, 0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
    const RECORD: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7];
    let length = |question: &[&[u8]]| [question.iter().map(|part| part.len() as u8).sum()];
    vec![
        seed("question", &[&length(&[HEAD, NAME]), HEAD, NAME]),
        seed("answered", &[&length(&[HEAD, NAME]), HEAD, NAME, ANSWERED, NAME, RECORD]),
        seed("cut", &[&length(&[HEAD, NAME]), HEAD, NAME, CUT, NAME]),
        seed("extended", &[&length(&[EXTENDED, NAME, EXTENSION]), EXTENDED, NAME, EXTENSION]),
        seed("reverse", &[&length(&[HEAD, REVERSE]), HEAD, REVERSE]),
        seed("update", &[&[12, 0x12, 0x34, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0]]),
        seed("long", &[&length(&[HEAD, NAME]), HEAD, NAME, ANSWERED, NAME, &[7; 700]]),
    ]
}

/// A number that the next one on the way gives to a question.
const OTHER: [u8; 2] = [7, 9];
