//! The country that an application wants its exit in: the user `country=DE` of SOCKS, or the field
//! `X-Mizzle-Exit-Country: DE` of HTTP. Who asks for one that is none is refused: better no way out than one that
//! was not meant. (spec: COUNTRY-3)

use mizzle_protocol::country::Country;

/// The application named something that is no country.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoCountry;

/// Of a user's name: any other name asks for nothing.
pub(super) fn of_user(user: &[u8]) -> Result<Option<Country>, NoCountry> {
    user.strip_prefix(b"country=").map(country).transpose()
}

/// Of the header field, if there is one.
pub(super) fn of_field(field: Option<&[u8]>) -> Result<Option<Country>, NoCountry> {
    field.map(|value| country(value.trim_ascii())).transpose()
}

fn country(code: &[u8]) -> Result<Country, NoCountry> {
    let text = std::str::from_utf8(code).map_err(|_| NoCountry)?;
    text.parse().map_err(|_| NoCountry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_country_is_understood_and_what_is_none_is_refused_and_not_passed_over() {
        let code = |asked: Result<Option<Country>, NoCountry>| asked.unwrap().unwrap().to_string();
        assert_eq!(code(of_user(b"country=DE")), "DE");
        assert_eq!(code(of_user(b"country=de")), "DE");
        assert_eq!(code(of_field(Some(b" fr "))), "FR");
        for user in [&b""[..], b"DE", b"Country=DE", b"xcountry=DE", b"country"] {
            assert_eq!(of_user(user), Ok(None));
        }
        for user in [&b"country="[..], b"country=XX", b"country=DEU", b"country=DE ", b"country=\xff\xff"] {
            assert_eq!(of_user(user), Err(NoCountry));
        }
        assert_eq!((of_field(None), of_field(Some(b""))), (Ok(None), Err(NoCountry)));
    }
}
