//! Which members of the control group vote: 1, 3 or 5, spread over zones, the living before the dead.
