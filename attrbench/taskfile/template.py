"""The text of a commented task file to fill in, which `attrbench new task` writes."""

from __future__ import annotations

from typing import Literal

Family = Literal["sd1", "sd3", "ddpm"]

_HEAD = """\
# A task for attrbench: a model, what it was trained on, and the pictures to explain.
# Every key: docs/how-to/own-model.md. Relative paths are relative to this file.
#
#   attrbench attribute -m dmin -t {name}.toml --image picture.png{prompt} -k 20
#   attrbench run -m dmin -m pixel -t {name}.toml

[task]
name = {quoted:<30} # the folder of its records
summary = "{summary}"
version = 1                           # raise it when model, data or queries become others

"""

_MODEL = {
    "sd1": """\
[model]
model = "path/to/pipeline"            # folder with model_index.json (StableDiffusionPipeline), or a hub id
# lora = "path/to/lora"               # folder or file of pytorch_lora_weights.safetensors; then it is attributed
# resolution = 512                    # pixels; default: the model's own
# attributed = "auto"                 # "lora" where there is one, else "transformer-blocks"; "whole-lora", "all"
# dtype = "float32"                   # or "bfloat16", "float16"
# offload = false                     # true: text encoder and VAE are on the device only while they work
# gradient_checkpointing = false      # true: less memory, more time
# sampling_steps = 50                 # of pictures that it draws from prompts
# guidance_scale = 7.5                # likewise; gradients are always without guidance
""",
    "sd3": """\
[model]
model = "path/to/pipeline"            # folder with model_index.json (StableDiffusion3Pipeline), or a hub id
# lora = "path/to/lora"               # folder or file of pytorch_lora_weights.safetensors; then it is attributed
# resolution = 1024                   # pixels; default: the model's own
# attributed = "auto"                 # "lora" where there is one, else "transformer-blocks"; "whole-lora", "all"
# dtype = "float32"                   # or "bfloat16", "float16"
offload = true                        # text encoders and VAE are on the device only while they work
gradient_checkpointing = true         # less memory, more time
# sampling_steps = 50                 # of pictures that it draws from prompts
# guidance_scale = 7.5                # likewise; gradients are always without guidance
""",
    "ddpm": """\
[model]
model = "path/to/pipeline"            # folder as DDPMPipeline.save_pretrained writes it, or a hub id
# sampling_steps = 50                 # of pictures that it draws
""",
}

_TRAIN = """\

[train]
path = "path/to/images"               # folder of images, folder written by `datasets`, or a hub id of a data set
{caption}# group_column = "family"             # groups, for the detection rate; without metadata: the subfolders' names
# split = "train"                     # of a data set; of a folder: its subfolder
# limit = 1000                        # only the first so many
# on_bad_image = "refuse"             # or "skip": go on without images that can't be read
# follow_links = false                # whether links in the folder may lead out of it
"""

_CAPTION = """\
# caption_column = "text"             # column of metadata.csv, metadata.jsonl or the data set
"""

_PROMPTED = """\

[queries]                             # for `attrbench run`; `attrbench attribute` brings its own picture
prompts = ["a prompt of yours"]       # or a file: "prompts.txt" (one a line), "prompts.csv" (prompt, group)
seeds = "0-3"                         # each prompt is drawn once with every seed
# groups = ["flowers"]                # one a prompt, compared with the groups of [train]
# images = "path/to/pictures"         # pictures instead of prompts or beside them; captions in their metadata.csv

# [tuning]                            # for `attrbench tune`: as [queries], other pictures, on which options are chosen
# prompts = ["a prompt of yours"]
# seeds = "4-7"
"""

_UNPROMPTED = """\

[queries]                             # for `attrbench run`; `attrbench attribute` brings its own picture
seeds = "0-9"                         # one picture each
# images = "path/to/pictures"         # pictures instead of seeds or beside them

# [tuning]                            # for `attrbench tune`: as [queries], other pictures, on which options are chosen
# seeds = "10-19"
"""

_SUMMARIES = {
    "sd1": "my Stable Diffusion 1.x",
    "sd3": "my Stable Diffusion 3",
    "ddpm": "my DDPM",
}


def template(name: str, family: Family) -> str:
    """Return the text of a commented task file for a model family, valid once its paths are filled in."""
    prompted = family != "ddpm"
    head = _HEAD.format(
        name=name, quoted=f'"{name}"', summary=_SUMMARIES[family], prompt=' --prompt "..."' if prompted else ""
    )
    train = _TRAIN.format(caption=_CAPTION if prompted else "")
    return head + _MODEL[family] + train + (_PROMPTED if prompted else _UNPROMPTED)
