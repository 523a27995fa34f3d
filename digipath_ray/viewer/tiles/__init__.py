"""Tiles of slides and value layers, and the pool of open slides."""
