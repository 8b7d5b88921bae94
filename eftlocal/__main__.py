"""`python -m eftlocal`: the command line."""

from eftlocal.cli import main

main()
