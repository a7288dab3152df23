"""Entry point of `python -m attrbench`: runs the same command line as the command `attrbench`."""

from attrbench.cli.app import main

main()
