"""What the user named, as the slides of a cohort."""
