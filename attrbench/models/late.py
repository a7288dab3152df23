"""Import of large libraries at their first use: diffusers, peft and transformers take seconds together.

A command that finds all its results in earlier records, or refuses an option, never needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["diffusers", "peft", "transformers"]


class LateModule:
    """A stand-in for a module, which is imported when one of its attributes is asked for.

    Args:
        name: of the module, such as `diffusers` or `transformers.utils.logging`.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Return an attribute of the module, importing it first.

        Raises:
            ImportError: where the module can't be imported.
            AttributeError: where it has no such attribute.
        """
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import diffusers
    import peft
    import transformers
else:
    diffusers, peft, transformers = LateModule("diffusers"), LateModule("peft"), LateModule("transformers")
