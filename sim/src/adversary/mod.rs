//! Who tries to find out what, and how far they get.

pub mod disclosure;
pub mod disturbing;
pub mod isolation;
pub mod lines;
pub mod matching;
pub mod meddling;
pub mod paths;
pub mod presence;
pub mod replaying;
pub mod tagging;
pub mod toggle;
pub mod trial;
