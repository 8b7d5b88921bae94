"""What there is to run and where its files are: `list`, `show`, `pull`, `rm` and `init`."""
