"""Artifacts: where the tissue of a slide cannot be trusted, kind by kind."""
