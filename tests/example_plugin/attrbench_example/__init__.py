"""An example plugin for attrbench: a method, a task, a ground truth and a model family."""

from attrbench import hookimpl
from attrbench.plugins.hookspecs import Register


@hookimpl
def register_methods(register: Register) -> None:
    """Registers the method."""
    register("mean-color", "negative distance of the images' mean colors", "attrbench_example.mean_color:MeanColor")


@hookimpl
def register_tasks(register: Register) -> None:
    """Registers the task."""
    register(
        "stripes-mini",
        "60 striped images of 8x8 pixels in three colors; an example",
        "attrbench_example.stripes:StripesMini",
    )


@hookimpl
def register_ground_truths(register: Register) -> None:
    """Registers the ground truth."""
    register(
        "left-out-color",
        "whether the strongest group is the one whose removal hurts most",
        "attrbench_example.left_out_color:LeftOutColor",
    )


@hookimpl
def register_model_families(register: Register) -> None:
    """Registers the family."""
    register("dit", "class-conditional diffusion transformer over latents", "attrbench_example.dit:DiT")
