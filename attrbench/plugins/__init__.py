"""The plugin system: hooks that plugins implement, and the registry that loads plugins and finds names."""
