"""Leaderboards: what the records say together."""
