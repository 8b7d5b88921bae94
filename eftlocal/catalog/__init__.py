"""The catalogue: which models and emulators the models.toml files define, and where the models' files are."""
