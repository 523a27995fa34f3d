"""The members of an ensemble: how they are built, loaded, run and combined."""
