"""An example plugin for attrbench: one thing for each door through which a plugin may bring something.

Registering names a class by an import string, so that listing what there is imports nothing of this package but this
module.
"""

from attrbench import hookimpl


@hookimpl
def register_methods(register):
    """Register the methods."""
    register("mean-color", "negative distance of the images' mean colors", "attrbench_example.mean_color:MeanColor")
    register(
        "layer-profile",
        "cosine of how the gradient's norm is spread over layers and timesteps",
        "attrbench_example.layer_profile:LayerProfile",
    )
    register(
        "unlearn-step",
        "rise of each item's loss after one step of gradient ascent on the query's",
        "attrbench_example.unlearn_step:UnlearnStep",
    )


@hookimpl
def register_tasks(register):
    """Register the task."""
    summary = "60 striped images of 8x8 pixels in three colors; an example, done in seconds"
    register("stripes-mini", summary, "attrbench_example.stripes:StripesMini")


@hookimpl
def register_ground_truths(register):
    """Register the ground truth."""
    summary = "whether the group of the largest score is the one whose removal raises the query's loss most"
    register("left-out-color", summary, "attrbench_example.left_out_color:LeftOutColor")


@hookimpl
def register_model_families(register):
    """Register the family."""
    register("dit", "class-conditional diffusion transformer over latents", "attrbench_example.dit:DiT")


@hookimpl
def register_executors(register):
    """Register the executor."""
    summary = "each job in a new Python process, which ends with it"
    register("fresh-process", summary, "attrbench_example.fresh_process:FreshProcess")


@hookimpl
def register_reports(register):
    """Register the report."""
    register("wins", "on how many queries each method is the best, as text", "attrbench_example.wins:Wins")
