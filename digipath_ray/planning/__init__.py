"""What a run will take: patches, hours, memory and money."""
