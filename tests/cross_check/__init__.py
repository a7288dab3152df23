"""Our scores beside those of published packages (dattri, traker, kronfluence), on the same small models.

Optional: `make cross-check` runs it in an environment of its own, see `tests.cross_check.__main__`. Where a peer's
scores are not ours, `tests.cross_check.faults` shows by an explicit solve who is right.
"""
