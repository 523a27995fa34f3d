"""What a run or a fit is asked to do: dataclasses, and the TOML they are read from."""
