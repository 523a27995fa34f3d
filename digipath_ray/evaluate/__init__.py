"""Scores of predictions by the challenges' own definitions.

One module per challenge; every score has a 95 % confidence interval.
"""
