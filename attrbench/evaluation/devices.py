"""Lookup of torch devices by name, with a check that they are available."""

from __future__ import annotations

import torch

from attrbench.errors import AttrbenchError


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`, after checking that it works on this machine.

    Raises:
        AttrbenchError: where there is no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AttrbenchError(f"device '{name}' is not available here: {str(error).splitlines()[0]}") from None
    return device
