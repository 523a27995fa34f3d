"""The map of a slide: overlapping patches added up, and its OME-TIFF file."""
