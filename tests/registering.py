"""Registering classes that a test makes: an import string needs a module in which they can be found."""

from __future__ import annotations

import sys
from types import ModuleType

_FOUND_HERE = sys.modules.setdefault("tests_registered", ModuleType("tests_registered"))


def register_classes(register, *classes):
    """Call a plugin's `register` for each class, by its own name and summary."""
    for kind in classes:
        about = getattr(kind, "meta", kind)
        attribute = f"{kind.__name__.replace('-', '_')}_{id(kind)}"
        setattr(_FOUND_HERE, attribute, kind)
        register(about.name, getattr(about, "summary", ""), f"{_FOUND_HERE.__name__}:{attribute}")


def plugin_of(**classes):
    """Return a plugin that registers classes, such as `plugin_of(methods=[Mine], tasks=[Own])`."""
    plugin = ModuleType("plugin_of_a_test")
    for kind, registered in classes.items():
        setattr(plugin, f"register_{kind}", lambda register, own=tuple(registered): register_classes(register, *own))
    return plugin
