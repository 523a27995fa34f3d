"""The journey of one slide in one process; distributed/ runs it for a cohort."""
