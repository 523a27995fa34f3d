"""What a heatmap comes to: lesions, features, metastasis types, pN stages, burden."""
