"""Mutated input files against the product's own readers: ``python -m tests.fuzz``.

``seeds`` writes small valid files, ``mutations`` and ``headers`` damage them, each
mutant repeatable from (seed, kind, number); ``targets`` reads them as the product does;
``child`` does that in a forked process with bounded memory and time; ``campaign``
counts what came out, and ``table`` writes it down.
"""
