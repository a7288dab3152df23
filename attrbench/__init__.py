"""attrbench: compare training-data attribution methods on diffusion models.

Plugin authors need `hookimpl` from here and the contracts in `attrbench.method`, `attrbench.task`,
`attrbench.metric` and `attrbench.features`. Importing this package imports no torch.
"""

from attrbench.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
