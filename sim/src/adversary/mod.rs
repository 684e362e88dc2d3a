//! Who tries to find out what, and how far they get.

pub mod disclosure;
pub mod lines;
pub mod matching;
pub mod presence;
pub mod toggle;
pub mod trial;
