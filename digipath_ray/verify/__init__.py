"""Whether a run directory still holds what the run has found, and all of it."""
