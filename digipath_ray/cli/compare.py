"""``digipath compare``: two runs side by side."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.config.run import OutcomeSpec
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.figures.comparison import write_comparison_figures
from digipath_ray.run.compare import compare_runs
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import place
from digipath_ray.words import count

SHORT = {
    "max_abs_difference": "max |A-B|",
    "mean_abs_difference": "mean |A-B|",
    "tumor_mm2_a": "A mm2",
    "tumor_mm2_b": "B mm2",
}
"""Column heads that a terminal has room for."""
TABLE_ONLY = ("mpp_x", "mpp_y", "pixels")


def show_comparison(
    console: Console,
    first: Path,
    second: Path,
    out: Path | None,
    *,
    threshold: float | None,
) -> int:
    """Print the comparison; write its table and pictures if a folder is given."""
    first, second = place(first), place(second)
    if threshold is None:
        threshold = common_threshold(first, second)
    table = compare_runs(first, second, threshold=threshold)
    console.print(f"A  {escape(str(first))}\nB  {escape(str(second))}")
    console.print(shown_table(table))
    slides = count(len(set(table["slide_id"].to_pylist())), "slide")
    console.print(f"{slides}; Dice at probability {threshold:g}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / "comparison.parquet")
        pictures = write_comparison_figures(first, second, out)
        if pictures:
            console.print(f"pictures  {escape(str(out))}/*.png")
        console.print(f"table     {escape(str(out))}/comparison.parquet")
    return 0


def common_threshold(first: Path, second: Path) -> float:
    """The threshold that both runs were made with.

    Raises:
        ValueError: they were made with two.
    """
    a, b = run_threshold(first), run_threshold(second)
    if a != b:
        raise ValueError(
            f"{first} was made with threshold {a:g} and {second} with {b:g}: choose "
            "the Dice's with --threshold"
        )
    return a


def run_threshold(run: Path) -> float:
    """The threshold that a run was made with; the default where there is no run."""
    settings = RunDirectory(run).settings
    if not settings.exists():
        return OutcomeSpec().threshold
    return from_tree(read_toml(settings)).outcome.threshold


def shown_table(table: pa.Table) -> Table:
    """The comparison as a table for the terminal."""
    shown = Table(box=None, pad_edge=False)
    names = [n for n in table.column_names if n not in TABLE_ONLY]
    for name in names:
        is_text = table.schema.field(name).type == pa.string()
        shown.add_column(
            SHORT.get(name, name),
            justify="left" if is_text else "right",
            overflow="fold",
        )
    for row in table.to_pylist():
        shown.add_row(*(escape(format_value(row[name])) for name in names))
    return shown


def format_value(value: object) -> str:
    """A cell as text."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
