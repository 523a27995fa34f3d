"""Settings of the public datasets, one TOML file each."""
