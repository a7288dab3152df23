"""Runs of attribution methods on tasks: from requests by a plan, computed features and scoring to records."""
