"""The command line: ``digipath``."""

from digipath_ray.cli.app import app, main

__all__ = ["app", "main"]
