"""attrbench: compare training-data attribution methods on diffusion models.

Plugin authors need `hookimpl` from here and the contracts in `attrbench.contracts.method`, `attrbench.contracts.task`,
`attrbench.contracts.metric` and `attrbench.contracts.feature`. Importing this package imports no torch.
"""

from attrbench.plugins.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]
