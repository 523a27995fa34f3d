"""Slides of the opened runs, with their changes."""
