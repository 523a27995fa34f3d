"""One slide: its file, what it states of itself, and pixels at any mpp."""
