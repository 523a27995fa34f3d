"""One slide: its file, its metadata, and its pixels at any mpp."""
