"""Reads files, folders and manifests into the slides of a cohort."""
