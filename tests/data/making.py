"""Image files for tests."""

import csv
import json

import numpy as np
from PIL import Image


def picture(path, seed=0, size=(12, 10), mode="RGB"):
    """Writes a picture of noise; different seeds give different ones."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def metadata_csv(folder, *rows):
    """Writes metadata.csv; the keys of the first row are the columns."""
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def metadata_jsonl(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def captioned(folder, count=4):
    """A folder of pictures with captions and two groups."""
    rows = []
    for index in range(count):
        picture(folder / f"{index:02d}.png", index)
        rows.append({"file_name": f"{index:02d}.png", "text": f"caption {index}", "family": "ab"[index % 2]})
    metadata_csv(folder, *rows)
    return folder
