"""Renders the page as one self-contained HTML file without scripts."""

import base64
import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from digipath_ray import __version__
from digipath_ray.figures.figure import round_length
from digipath_ray.report.facts import LESION_COLUMNS, LesionView
from digipath_ray.report.findings import read_findings
from digipath_ray.report.methods import REFERENCE
from digipath_ray.report.page import Page, lay_out
from digipath_ray.report.preview import (
    STEPS,
    Preview,
    Window,
    draw_preview,
    palette,
    preview_bytes,
)
from digipath_ray.report.slides import SLIDE_COLUMNS, SlideView
from digipath_ray.report.words import NONE, format_lesion_length
from digipath_ray.run.checksums import state_digest
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import publish
from digipath_ray.words import count, printable

log = logging.getLogger(__name__)

STATE = "digipath-state"
"""Name of the page's digest of the records and failures that it was written of."""
MARKED = 8
"""Maximum lesions numbered on a preview."""
LEADER = 0.03
"""Minimum distance of a number from its lesion, as a fraction of the preview."""


def write_report(run: RunDirectory) -> Path:
    """Write report.html of a run directory; returns its path.

    Raises:
        RunError: not a run directory.
        ValueError: a file is damaged.
    """
    page = lay_out(read_findings(run))
    with publish(run.report) as path:
        path.write_text(render(page, run), encoding="utf-8")
    return run.report


def render(page: Page, run: RunDirectory) -> str:
    """Render a page; previews are drawn from the run's files."""
    folder = resources.files("digipath_ray.report")
    style = folder.joinpath("report.css").read_text("utf-8")
    template = _environment().from_string(
        folder.joinpath("report.html.jinja").read_text("utf-8")
    )
    digest = hashlib.sha256(style.encode()).digest()
    html: str = template.render(
        page=page,
        style=style,
        style_hash=f"sha256-{base64.b64encode(digest).decode()}",
        version=__version__,
        state_name=STATE,
        state=state_digest(page.findings.records, page.findings.failures),
        reference=REFERENCE,
        scale=scale_colors(),
        patient_anchors={p.patient_id: p.anchor for p in page.patients},
        preview_of=functools.partial(_preview_of, run=run, page=page),
        files_of=functools.partial(_files_of, run=run),
        place_marks=place_marks,
        bar_um=_bar_um,
        slide_columns=SLIDE_COLUMNS,
        lesion_columns=LESION_COLUMNS,
        count=count,
        format_lesion_length=format_lesion_length,
        dash=NONE,
    )
    return html


def _environment() -> Environment:
    return Environment(
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _printable(value: Any) -> Any:
    """A text that no control character can turn around; HTML of ours stays."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if is_text else value


def _preview_of(slide: SlideView, *, run: RunDirectory, page: Page) -> Preview | None:
    if not slide.slide:
        return None
    try:
        return draw_preview(
            run,
            slide.slide,
            threshold=page.findings.config.outcome.threshold,
            budget=preview_bytes(len(page.slides)),
        )
    except (ValueError, OSError) as e:  # a damaged file must not prevent the page
        slide_id = slide.slide_id
        log.warning(
            "%s: no preview in the report: %s",
            slide_id,
            e,
            extra={"slide_id": slide_id},
        )
        return None


def _files_of(slide: SlideView, *, run: RunDirectory) -> list[tuple[str, str]]:
    """Relative links to the slide's files in the run directory, with descriptions."""
    found = (
        ("larger picture with both uncertainty maps", run.overlay(slide.slide_id)),
        ("tissue mask", run.mask_overlay(slide.slide_id)),
        ("outlines for QuPath", run.lesions(slide.slide_id)),
        ("outlines of classes for QuPath", run.class_outlines(slide.slide_id)),
    )
    return [
        (name, quote(path.relative_to(run.root).as_posix()))
        for name, path in found
        if path.is_file()
    ]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Number of a lesion on a preview: positions of lesion and number."""

    number: int
    x: float
    y: float
    label_x: float
    label_y: float
    counted: bool


def place_marks(lesions: Sequence[LesionView], window: Window) -> list[Mark]:
    """Place the numbers of the largest lesions, next to them and inside the preview."""
    side = max(window.width, window.height)
    edge = 0.03 * side
    marks = []
    for lesion in lesions[:MARKED]:
        # Outside the lesion's circumscribed circle, so that it is not hidden.
        off = LEADER * side + 0.35 * lesion.feret_um
        mark = Mark(
            number=lesion.number,
            x=lesion.x_um,
            y=lesion.y_um,
            label_x=min(lesion.x_um + off, window.x + window.width - edge),
            label_y=max(lesion.y_um - off, window.y + edge),
            counted=lesion.counted,
        )
        marks.append(mark)
    return marks


def _bar_um(window: Window) -> float:
    return round_length(window.width)


def scale_colors() -> list[str]:
    """Colors of the map from 0 to 1, on white."""
    rgb, opacity = palette()
    colors = []
    for i in range(1, STEPS + 1):
        alpha = opacity[i] / 255
        on_white = (round(255 - alpha * (255 - c)) for c in rgb[3 * i : 3 * i + 3])
        colors.append("#" + "".join(f"{c:02x}" for c in on_white))
    return colors
