"""The command line of attrbench, with one module for each command."""
