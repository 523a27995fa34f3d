"""How networks come to be: annotated slides into a fitted, calibrated ensemble.

sampling (points on slides, draws of an epoch) -> reader (draws into batches of pixels
and truth) -> augment (one patch, varied) -> fit (a network, epoch by epoch, from its
start through its loss) -> calibration (what a probability is worth, where to cut it)
-> conclusion (weights, card, curves) -> scoring (on patients that no member has seen)

folds say which patients a member sees. Hard examples and corrections, which ``mining``
leads to, are added. Pure functions; Ray spreads them in ``distributed``.
"""
