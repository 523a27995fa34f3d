"""Tissue detection and slide quality."""
