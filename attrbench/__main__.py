"""`python -m attrbench`."""

from attrbench.cli.app import main

main()
