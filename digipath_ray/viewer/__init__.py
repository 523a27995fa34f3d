"""The viewer: a run, while it goes on or after it, or slides before any, in a browser.

    marks -> reading -> collection -> service -> slides, app -> guard -> serve
             entries -> opened        pool, pyramid, tiles: the slide's own tiles
                                      valuetiles, layers, truth, maps: what lies over it
                                      live, starts, exports: events, runs, downloads

``collection`` knows what is opened and reads it again as its files change; ``entries``
says it as JSON. ``slides`` answers about one slide, ``app`` about all of them.
``guard`` stands before both: ``trust`` says who may ask, ``limits`` how much at once.
``serve`` is the process. The page is TypeScript in ``web/`` and comes, built, from
``page/``.
"""
