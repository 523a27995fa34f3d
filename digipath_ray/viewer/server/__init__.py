"""The routes of the viewer, who may use them, and what they answer."""
