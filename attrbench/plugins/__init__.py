"""Hooks, and the registry that loads plugins and looks names up."""
