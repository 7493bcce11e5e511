//! Laws, bounds and hand-made cases.
