"""Pictures for people: overlays and comparisons."""
