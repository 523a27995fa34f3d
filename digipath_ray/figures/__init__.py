"""Figures: overlays and comparisons."""
