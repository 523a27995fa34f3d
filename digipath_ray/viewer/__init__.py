"""The viewer: a run, while it goes on or after it, or slides before any, in a browser.

    snapshot, marks -> entries, patients, failures -> reading -> collection -> service
    bounded -> picture -> pool -> slidetiles        the slide's own tiles
               valuetiles -> layers -> truth -> maps       what lies over it
    trust, limits -> guard -> answers
    service, answers -> slides, downloads (exports), cohort (live), runs (jobs, starts)
                     -> app -> serve

``collection`` knows what is opened and reads it again as its files change: ``marks``
see that they have, ``reading`` makes a ``snapshot`` of them, ``entries`` and
``patients`` say it as JSON. ``slides`` answers about one slide, ``cohort`` about all of
them, ``downloads`` with files, ``runs`` about those started from the page. ``guard``
stands before them: ``trust`` says who may ask, ``limits`` how much at once. ``app``
puts all together, ``serve`` is the process. The page is TypeScript in ``web/`` and
comes, built, from ``page/``.
"""
