"""What people use: each module is one command's work, imported only when that command runs."""
