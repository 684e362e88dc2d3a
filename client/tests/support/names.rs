//! A resolver that knows a handful of names.

use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The answer to a question: `two.test` has an address of each kind, `four.test` one of IPv4, `many.test` more than
/// fit a datagram, `none.test` none, 192.0.2.1 is `two.test`, and of 192.0.2.2 the tree says something else than a
/// name. It refuses `refused.test`, fails at `broken.test`, and all other names do not exist.
pub(super) fn answer(question: &[u8], stream: bool) -> Option<Vec<u8>> {
    let mut packet = Packet::parse(question).ok()?.into_reply();
    let asked = packet.questions.first()?.clone();
    let name = asked.qname.to_string();
    let mut add = |rdata: RData<'static>| {
        packet.answers.push(ResourceRecord::new(asked.qname.clone(), CLASS::IN, 60, rdata));
    };
    let four = |last: u8| RData::A(A::from(Ipv4Addr::new(192, 0, 2, last)));
    let six = || RData::AAAA(AAAA::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    match (name.as_str(), asked.qtype) {
        ("two.test" | "four.test", QTYPE::TYPE(TYPE::A)) => add(four(1)),
        ("two.test", QTYPE::TYPE(TYPE::AAAA)) => add(six()),
        ("four.test" | "none.test", _) => {}
        ("many.test", QTYPE::TYPE(TYPE::A)) if stream => (0..60).for_each(|last| add(four(last))),
        ("many.test", QTYPE::TYPE(TYPE::A)) => packet.set_flags(PacketFlag::TRUNCATION),
        ("many.test", _) => {}
        ("1.2.0.192.in-addr.arpa", _) => add(RData::PTR(PTR(Name::new("Two.Test.").unwrap()))),
        ("2.2.0.192.in-addr.arpa", _) => {
            let odd = simple_dns::Label::new(&b"a b\n"[..]).unwrap();
            add(RData::PTR(PTR(Name::new_with_labels(&[odd]))));
        }
        ("refused.test", _) => *packet.rcode_mut() = RCODE::Refused,
        ("broken.test", _) => *packet.rcode_mut() = RCODE::ServerFailure,
        _ => *packet.rcode_mut() = RCODE::NameError,
    }
    packet.build_bytes_vec().ok()
}
