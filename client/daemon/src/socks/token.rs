//! Isolation tokens: what an application gives as its user, its password or in a header, as opaque bytes that
//! differ whenever those do. An application that gives nothing has the empty token. (spec: PROXY-6)

/// User and password of SOCKS5, at most 255 bytes each.
pub(super) fn password(user: &[u8], password: &[u8]) -> Vec<u8> {
    [&[1, user.len() as u8], user, &[password.len() as u8], password].concat()
}

/// The user id of SOCKS4; many clients send the name of the account, or nothing.
pub(super) fn user_id(user: &[u8]) -> Vec<u8> {
    match user {
        [] => Vec::new(),
        _ => [&[2], user].concat(),
    }
}

/// `Proxy-Authorization` and `X-Mizzle-Isolation`, as they stand in the head, which is bounded at 32 KiB.
pub(super) fn headers(authorization: Option<&[u8]>, isolation: Option<&[u8]>) -> Vec<u8> {
    if authorization.is_none() && isolation.is_none() {
        return Vec::new();
    }
    let mut token = vec![3];
    for value in [authorization, isolation] {
        token.push(u8::from(value.is_some()));
        let value = value.unwrap_or_default();
        token.extend((value.len() as u16).to_be_bytes());
        token.extend(value);
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_tokens_never_look_alike() {
        let tokens = [
            user_id(b""),
            user_id(b"a"),
            password(b"", b""),
            password(b"a", b""),
            password(b"", b"a"),
            password(b"", b"b"),
            password(b"ab", b"c"),
            password(b"a", b"bc"),
            headers(Some(b""), None),
            headers(Some(b"a"), None),
            headers(None, Some(b"a")),
            headers(Some(b"a"), Some(b"")),
            headers(Some(b"a"), Some(b"bc")),
            headers(Some(b"ab"), Some(b"c")),
        ];
        for (index, one) in tokens.iter().enumerate() {
            assert!(tokens.iter().skip(index + 1).all(|other| other != one));
        }
        assert_eq!(headers(None, None), user_id(b""));
    }
}
