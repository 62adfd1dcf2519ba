"""`python -m bye STAGE`: the command line without an installed script."""

from bye.cli import main

main()
