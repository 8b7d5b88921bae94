"""The apps: what people use. Each does the work of one command and is imported only when that command runs."""
