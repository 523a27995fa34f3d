"""Stains of a slide: their estimate from its tissue, and the map to a reference."""
