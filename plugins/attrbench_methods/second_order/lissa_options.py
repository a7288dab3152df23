"""Options of the method `lissa`: which curvature matrix, and the steps and tolerance of its iterative inversion."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from attrbench_methods.second_order.block_influence import BlockOptions


class LiSSAOptions(BlockOptions):
    """Options of the method `lissa`: curvature matrix, steps, tolerance, step size, batch, damping and sketch."""

    needs: ClassVar = {
        **dict.fromkeys(("v", "blocks", "concatenate"), "hessian=fisher"),
        **dict.fromkeys(("sketch", "seed"), "hessian=fisher,v"),
    }
    hessian: Literal["fisher", "ggn", "hessian"] = "fisher"
    """`fisher`: the empirical Fisher matrix of the stored gradients; `ggn`: Gauss-Newton products, `hessian`: exact
    Hessian products, both of the whole network over the training set, for every query anew."""
    iterations: int = Field(500, ge=1)
    """Greatest number of steps of the iteration, J."""
    tolerance: float = Field(0.01, gt=0, lt=1)
    """Relative residual |g - (H + lam I) u| / |g| at which the iteration stops; without effect, and refused, with
    hessian=fisher and batch."""
    step: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Step size eta; `none`: 1 / (the largest eigenvalue + lam)."""
    batch: int | None = Field(None, ge=1)
    """fisher: number of training items drawn for each step (LiSSA's sampling); `none`: all, which has a closed form.
    ggn and hessian: number of pairs of item and timestep drawn for each step; `none`: 64."""

    @model_validator(mode="after")
    def _sampled_items_have_one_block_and_no_tolerance(self) -> LiSSAOptions:
        if self.hessian == "fisher" and self.batch is not None:
            if self.blocks != "single":
                raise ValueError("batch goes with blocks=single")
            if "tolerance" in self.model_fields_set:
                raise ValueError(
                    f"tolerance={self.tolerance}: has no effect with hessian=fisher and batch, where all"
                    " iterations are taken"
                )
        return self
