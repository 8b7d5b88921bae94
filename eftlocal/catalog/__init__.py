"""What to run: models.toml read strictly."""
