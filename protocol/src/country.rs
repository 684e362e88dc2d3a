//! Countries, by the two letters of ISO 3166-1 (alpha-2).

use crate::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

/// A country, as a relay's operator declares it and as a client asks for it. Declared, not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// The two letters, in capitals.
    pub fn code(&self) -> &str {
        // Never anything but letters: see the ways to make one.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Any two capital letters: a document may name a country that is younger than this build's list.
    pub fn from_document(code: &str) -> Result<Self> {
        match code.as_bytes() {
            &[first, second] if first.is_ascii_uppercase() && second.is_ascii_uppercase() => {
                Ok(Self([first, second]))
            }
            _ => Err(Error::new(ErrorKind::Malformed, "a country is two capital letters")),
        }
    }
}

/// What a person has written, in capitals or not. Only codes that are assigned to a country.
impl FromStr for Country {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let upper = text.to_ascii_uppercase();
        match Self::from_document(&upper) {
            Ok(country) if ASSIGNED.split_ascii_whitespace().any(|code| code == upper) => Ok(country),
            _ if upper == "UK" => Err(Error::new(ErrorKind::Misuse, "`UK` is no country's code: it is GB")),
            _ => Err(Error::new(
                ErrorKind::Misuse,
                "not a country: write the two letters that ISO 3166-1 gives it, such as DE",
            )),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The officially assigned codes.
const ASSIGNED: &str = "
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO
    FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE
    JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO
    MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW
    PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM
    TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_write_assigned_codes_only_and_documents_any() {
        let codes: Vec<&str> = ASSIGNED.split_ascii_whitespace().collect();
        assert_eq!(codes.len(), 249);
        assert!(codes.is_sorted_by(|a, b| a < b));
        for code in codes {
            assert_eq!(code.parse::<Country>().unwrap().to_string(), code);
            assert_eq!(code.to_lowercase().parse::<Country>().unwrap().code(), code);
        }
        for text in ["", "D", "DEU", "XX", "EU", "d\u{e9}", "\u{df}\u{df}", "D1", " DE"] {
            assert!(text.parse::<Country>().is_err(), "{text}");
        }
        assert!("uk".parse::<Country>().unwrap_err().to_string().contains("GB"));
        assert_eq!(Country::from_document("XX").unwrap().code(), "XX");
        for text in ["de", "D", "DEU", "D1", ""] {
            assert!(Country::from_document(text).is_err(), "{text}");
        }
    }
}
