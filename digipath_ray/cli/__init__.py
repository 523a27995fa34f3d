"""The command line: ``digipath``."""

from digipath_ray.cli.app import app, main, run_app

__all__ = ["app", "main", "run_app"]
