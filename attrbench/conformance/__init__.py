"""Conformance checks that every attribution method must pass; `attrbench check` runs them on a tiny task."""
