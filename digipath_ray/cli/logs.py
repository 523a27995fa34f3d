"""Log lines of a command: for people, or JSON for machines, one object a line."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO, Literal

from digipath_ray.words import printable, redacted

LogFormat = Literal["text", "json"]
ABOUT = ("slide_id", "step")
"""What a record may be about, given to the logger as ``extra``."""


class Stderr(logging.StreamHandler[IO[str]]):
    """Log lines to the stderr of the moment: live bars put their own in its place."""

    @property
    def stream(self) -> IO[str]:
        """Where to."""
        return sys.stderr

    @stream.setter
    def stream(self, value: IO[str]) -> None:
        pass


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(redacted(record.getMessage())),
        }
        about = {name: getattr(record, name) for name in ABOUT if hasattr(record, name)}
        trace = {}
        if record.exc_info:
            trace["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps({**entry, **about, **trace}, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A record for people: what a file says controls no terminal and forges no line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; further lines of it are indented."""
        text = redacted(super().format(record))
        return printable(text).replace("\n", "\n    ")


def set_up_logs(*, verbose: bool, log_format: LogFormat) -> None:
    """Log to stderr: warnings, or more if ``verbose``."""
    handler = Stderr()
    handler.setFormatter(
        JsonLines()
        if log_format == "json"
        else TextLines("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, handlers=[handler]
    )
