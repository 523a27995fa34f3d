"""From a finished run back to a fit: what it got wrong, and what it is unsure of.

spec (what is looked for) -> hard (patches that a run got wrong) -> examples (their
file, which a fit takes); regions (where a run is least sure, to be corrected in QuPath)
"""
