"""HTTP routes of the viewer, access control and responses."""
