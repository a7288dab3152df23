"""Suites: the tables and figures of a paper as data, run through the same tasks and methods as everything else."""
