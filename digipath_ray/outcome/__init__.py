"""Measurements of a heatmap and what follows from them: lesions, features, metastasis types, pN stages, burden."""
