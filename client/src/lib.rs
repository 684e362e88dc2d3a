//! The Mizzle client.
