"""``digipath compare``: two runs side by side."""

from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from digipath_ray.compare import compare_runs, write_comparison_figures


def show_comparison(
    console: Console, first: Path, second: Path, out: Path | None, *, threshold: float
) -> int:
    """Print the comparison; write its table and pictures if a folder is given."""
    table = compare_runs(first, second, threshold=threshold)
    shown = Table(box=None, pad_edge=False)
    for name in table.column_names:
        shown.add_column(name)
    for row in table.to_pylist():
        shown.add_row(*(_text(v) for v in row.values()))
    console.print(shown)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / "comparison.parquet")
        write_comparison_figures(first, second, out)
        console.print(f"pictures  {out}/*.png\ntable     {out}/comparison.parquet")
    return 0


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
