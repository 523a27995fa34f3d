"""Metastasis type of a slide, by four random forests or by the size rule."""
