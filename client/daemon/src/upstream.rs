//! The setting `upstream` as it was written: it may hold a password, so that it is parsed where an error does not
//! repeat it, and shown nowhere. (spec: CLIENT-5)

use mizzle_client::Upstream;
use serde::Deserialize;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// What a flag, a variable or the file says.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Written(String);

impl Written {
    /// The proxy; an error does not repeat what was written.
    pub(crate) fn parse(&self) -> Result<Upstream, String> {
        self.0.parse().map_err(|why| format!("`upstream` names no proxy: {why}"))
    }
}

impl FromStr for Written {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}
