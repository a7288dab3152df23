"""Assembly of diffusers pipeline folders from components, so that components shared by several tasks ship once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from attrbench.contracts.denoiser import CHECKPOINTS
from attrbench.files import sha256_of
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import fingerprint
from attrbench_tasks.training.train_text_to_image import NETWORK, Family

INDEX: dict[str, dict[str, Any]] = {
    "sd14": {
        "_class_name": "StableDiffusionPipeline",
        "requires_safety_checker": False,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "sd3": {
        "_class_name": "StableDiffusion3Pipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
}
"""`model_index.json` of the pipelines: the components that are there, and those that are not."""


def pipeline_parts(family: Family, shared: Path, own: Path | None) -> dict[str, Path]:
    """Return the source folder of each component of a pipeline (network, autoencoder, text encoders), by name.

    Args:
        family: of the pipeline.
        shared: holds the autoencoder, the text encoders and, in a folder by family, the base network.
        own: holds another network, with its scheduler and checkpoints, if any.
    """
    network = NETWORK[family]
    home = shared / family if own is None else own
    folders = {name: shared / name for name, kind in INDEX[family].items() if isinstance(kind, list) and kind[0]}
    folders |= {name: home / name for name in (network, "scheduler")}
    if "tokenizer_2" in folders:
        folders["tokenizer_2"] = shared / "tokenizer"  # both CLIPs read the same tokens
    if own is not None and (own / CHECKPOINTS).is_dir():
        folders[CHECKPOINTS] = own / CHECKPOINTS
    return folders


def assembled(index: dict[str, Any], parts: dict[str, Path], cache: Path) -> Path:
    """Return a diffusers pipeline folder in the cache, copied together from its components if it is missing.

    Args:
        index: `model_index.json`.
        parts: folders by their name in the pipeline.
        cache: folder below which it lies.
    """
    files = {
        f"{name}/{file.name}": file
        for name, folder in parts.items()
        for file in sorted(folder.iterdir())
        if file.is_file()
    }
    key = fingerprint({"index": index, "files": {name: sha256_of(file) for name, file in files.items()}})

    def build(part: Path) -> None:
        for name, file in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, part / name)
        (part / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")

    summary = f"{index['_class_name']} of {len(parts)} parts"
    artifact = Artifact(cache / "pipelines" / key[:20], "assembled pipeline", summary)
    return artifact.kept(build, lambda path, _: path).value
