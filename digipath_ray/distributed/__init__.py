"""The only package code that imports Ray: it spreads the steps of ``pipeline``."""
