//! Who tries to find out what, and how far they get.

pub mod lines;
pub mod matching;
pub mod paths;
pub mod presence;
