"""How networks come to be: annotated slides into a fitted, calibrated ensemble.

folds (which patients a member sees) -> augment (one patch, varied) -> loss (what is
made small) -> calibration (what a probability is worth, and where to cut it)
-> curves (how a fit went, to look at)

Pure functions; Ray spreads them in ``distributed``.
"""
