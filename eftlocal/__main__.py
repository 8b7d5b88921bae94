"""`python -m eftlocal` runs the command line."""

from eftlocal.cli import main

main()
