"""Where commands print."""

import sys

from rich.console import Console

FILE_WIDTH = 200
"""Columns of what is printed to a file or a pipe, where nothing says how many."""


def console() -> Console:
    """The terminal, or the file or pipe in its place."""
    wide = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(soft_wrap=True, width=wide, highlight=False)
