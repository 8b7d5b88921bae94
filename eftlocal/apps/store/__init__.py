"""The apps about models and their files: `list`, `show`, `pull`, `rm` and `init`."""
