//! Frames, written with the session machines.
