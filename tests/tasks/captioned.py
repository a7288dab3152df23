"""Tiny captioned image folders."""

import numpy as np
from PIL import Image

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_images(folder, groups, size=(20, 24), seed=0, word="card", column="text"):
    """A picture for each group, captioned `WORD LETTER`; groups that are None have no column."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    grouped = any(groups)
    rows = [f"file_name,{column}" + (",group" if grouped else "")]
    for place, group in enumerate(groups):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        rows.append(f"{place}.png,{word} {LETTERS[place]}" + (f",{group}" if grouped else ""))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder
