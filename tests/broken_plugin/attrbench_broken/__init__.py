"""A plugin that can't be imported."""

raise RuntimeError("out of order on purpose")
