"""Report of a finished run as a single page for pathologists, ``report.html``.

:mod:`findings` reads the run directory; :mod:`attention`, :mod:`facts`, :mod:`evidence`
and :mod:`methods` phrase it; :mod:`preview` draws the slides; :mod:`page` lays
everything out, and :mod:`render` writes the HTML.
"""

from digipath_ray.report.render import write_report

__all__ = ["write_report"]
