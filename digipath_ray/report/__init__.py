"""A finished run as one page that a pathologist reads first: ``report.html``.

:mod:`findings` reads the run directory; :mod:`attention`, :mod:`facts`, :mod:`evidence`
and :mod:`methods` put it into words; :mod:`picture` draws the slides; :mod:`page` lays
all of it out, and :mod:`render` writes the HTML.
"""

from digipath_ray.report.render import write_report

__all__ = ["write_report"]
