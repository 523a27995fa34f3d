"""The slides of the runs shown, as they are now and as they change."""
