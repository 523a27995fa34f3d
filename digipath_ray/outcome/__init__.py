"""Measurements of a heatmap, and the types, stages and burden that follow."""
