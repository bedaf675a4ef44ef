"""PURE: every decision of the controller. No I/O, no clock, no randomness: they are arguments."""
