"""Predictions scored against the challenges' references, by their own definitions.

A module is a challenge's; each score comes with a 95 % interval.
"""
