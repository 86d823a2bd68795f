"""`python -m lf.cli` is `lf`."""

from lf.cli import main

main()
