"""Queue of runs started from the page."""
