"""Options that the small text-to-image tasks share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from attrbench.contracts.model_config import Attributed
from attrbench.contracts.options import Options


class MiniTextToImageOptions(Options):
    """Options of the text-to-image minis: queries per family, reported or tuning ones, and what is differentiated."""

    queries_per_group: int = Field(10, ge=1, le=100)
    """Generated queries for each family."""
    query_set: Literal["reported", "tuning"] = "reported"
    """`tuning`: queries of other seeds and, while they last, other prompts, for choosing options; nothing may be chosen
    on the reported ones."""
    attributed: Attributed = "auto"
    """Which parameters are differentiated (docs/reference/models.md)."""

    @model_serializer(mode="wrap")
    def _without_default_attributed(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Serialize the options, omitting `attributed` at its default, so that earlier records stay comparable."""
        options: dict[str, Any] = serialize(self)
        return {name: value for name, value in options.items() if (name, value) != ("attributed", "auto")}
