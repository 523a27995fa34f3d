"""Web viewer of a run, running or finished, or of slides without a run.

    snapshot, marks -> entries, patients, failures -> reading -> collection -> service
    bounded -> picture -> pool -> slidetiles        the slide's own tiles valuetiles ->
    layers -> truth -> maps       its overlays trust, limits -> guard -> answers
    service, answers -> slides, downloads (exports), cohort (live), runs (jobs, starts)
    -> app -> serve

``collection`` holds what is opened and reloads it when its files change: ``marks``
detects changes, ``reading`` builds a ``snapshot``, ``entries`` and ``patients`` convert
it to JSON. ``slides`` serves one slide, ``cohort`` all of them, ``downloads`` files,
``runs`` those started from the page. ``middleware`` protects them: ``auth`` decides who
may access, ``limits`` how much at once. ``app`` assembles all, ``serve`` is the
process. The page is TypeScript in ``web/``, served from its build in ``page/``.
"""
