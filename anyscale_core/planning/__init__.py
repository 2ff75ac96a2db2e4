"""Pure decisions: ``plan = f(desired, observed, now)``. No clock, no store, no logging, no randomness."""
