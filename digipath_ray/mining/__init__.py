"""Mining a finished run for further training: errors and uncertain regions.

spec (settings) -> hard (patches predicted wrong) -> examples (their file, input of a
fit); regions (most uncertain areas, to be corrected in QuPath)
"""
