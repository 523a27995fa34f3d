"""Training: from annotated slides to a fitted, calibrated ensemble.

sampling (points on slides, draws of an epoch) -> reader (draws to batches of pixels and
truth) -> augment (one patch) -> fit (one network, from its start weights, by its loss)
-> calibration (reliability, threshold, temperature) -> conclusion (weights, card,
curves) -> scoring (on test patients)

Folds assign patients to members. Hard examples and corrections from ``mining`` are
added. All free of Ray, which is used in ``distributed``.
"""
