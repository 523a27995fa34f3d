"""``digipath report``: a finished run as a page."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.report import write_report
from digipath_ray.run.checksums import reseal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.words import size


def report_run(console: Console, run_folder: Path) -> int:
    """Write a run's report.html again and print its path.

    Raises:
        RunError: the folder is no run's.
        ValueError: one of its files is damaged.
    """
    run = RunDirectory(run_folder)
    path = write_report(run)
    reseal(run, path)
    console.print(f"report    {escape(str(path))} ({size(path.stat().st_size)})")
    return 0
