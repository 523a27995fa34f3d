"""``digipath export``: a finished run in other programs' formats."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from digipath_ray.export import export_run as write_export
from digipath_ray.run.directory import RunDirectory
from digipath_ray.words import count


def export_run(
    console: Console,
    run_folder: Path,
    out: Path,
    format: str,
    *,
    with_patient: bool = False,
) -> int:
    """Write a run to a folder in another format; 1 if a slide had to be left out.

    Raises:
        RunError: the folder is no run's, or holds nothing of the kind.
        ValueError: no such format, or it needs an extra that is not installed; or the
            patient is asked for in a format that holds none.
    """
    exported = write_export(
        RunDirectory(run_folder), out, format=format, with_patient=with_patient
    )
    for reason in exported.left_out:
        console.print(f"[yellow]left out[/]  {escape(reason)}")
    many = count(len(exported.files), "file")
    console.print(f"{format:<10}{escape(str(out))} ({many})")
    return 1 if exported.left_out else 0
