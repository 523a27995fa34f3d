"""Cost estimate of a run: patches, hours, memory and money."""
