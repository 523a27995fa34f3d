"""Runs that are started from the page, one after the other."""
