"""Tiles of slides and of value layers, and the images kept open for them."""
