"""Reading of image data sets with the library `datasets`: hub ids, folders saved by it, parquet files."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from attrbench.contracts.dataset_source import DatasetSource
from attrbench.data.content_digests import Contents, digest_of
from attrbench.data.manifest import Listing, choose_caption_column, choose_group_column, need_column
from attrbench.errors import AttrbenchError
from attrbench.hub import hub_or_cache
from attrbench.store.artifacts import Artifact
from attrbench.store.fingerprint import files_state, fingerprint

# The functions below import `datasets` when a table is opened: it takes about a second, and folders need none of it.


def is_table_folder(folder: Path) -> bool:
    """Return whether a folder was saved by the library `datasets` or holds parquet files, unlike an image folder."""
    return _is_saved(folder) or any(_parquet_files(folder))


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _parquet_files(folder: Path) -> Iterator[Path]:
    return (path for pattern in ("*.parquet", "data/*.parquet") for path in folder.glob(pattern))


def list_table(source: DatasetSource, folder: Path | None, cache: Path) -> Listing:
    """Return the listing (names, captions, groups) of a data set read by the library `datasets`, one item per row.

    Args:
        source: data set, split, columns and limit; its `path` is the hub id if `folder` is None.
        folder: local folder, or None to load from the hub.
        cache: folder to which parquet files are unpacked.

    Raises:
        AttrbenchError: where the data set, a split, a column or all rows are missing.
    """
    table = _one_split(_load(source, folder, cache), source)
    where = f"data set {source.path}"
    image = _image_column(table, source.image_column, where)
    caption = choose_caption_column(table.column_names, source.caption_column, where)
    group = choose_group_column(table.column_names, source.group_column, where)
    count = len(table) if source.limit is None else min(source.limit, len(table))
    if count == 0:
        raise AttrbenchError(f"{where} has no rows")
    stamp, opener = [table._fingerprint, image, count], _Opener(table, image)
    return Listing(
        where=where,
        names=[f"row {row}" for row in range(count)],
        captions=None if caption is None else _texts(table, caption, count, where),
        groups=None if group is None else _texts(table, group, count, where),
        stamp=stamp,
        open=opener,
        contents=Contents(fingerprint(stamp[:2]), [0] * count, lambda index: digest_of(opener.encoded(index))),
    )


class _Opener:
    """A callable that opens the image of a data set's row with Pillow without decoding its pixels."""

    def __init__(self, table: Any, column: str) -> None:
        image = type(table.features[column])
        self._rows = table.select_columns([column]).cast_column(column, image(decode=False))
        self._column = column

    def __call__(self, index: int) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded(index)))

    def encoded(self, index: int) -> bytes:
        """Return the encoded image of a row, from the table or the file that it names."""
        stored = self._rows[index][self._column]
        if stored is None:
            raise ValueError("the row has no image")
        data: bytes | None = stored["bytes"]
        return Path(stored["path"]).read_bytes() if data is None else data


def _load(source: DatasetSource, folder: Path | None, cache: Path) -> Any:
    try:
        import datasets  # heavy, see the top of the module
    except ImportError as error:
        raise AttrbenchError(f"{source.path} needs the library datasets: pip install datasets ({error})") from None
    with _quiet():
        try:
            if folder is None:
                with hub_or_cache():
                    return datasets.load_dataset(source.path, source.subset, revision=source.revision)
            if _is_saved(folder):
                return datasets.load_from_disk(str(folder))
            return _unpacked(datasets, folder, cache)
        except AttrbenchError:
            raise
        except Exception as error:  # the library and those below it have many
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise AttrbenchError(f"cannot load the data set {source.path}: {reason}" + _advice(folder)) from None


def _unpacked(datasets: Any, folder: Path, cache: Path) -> Any:
    """Return the data set in the parquet files of a folder, unpacked into the cache unless it lies there."""

    def build(part: Path) -> None:
        scratch = part / "scratch"  # the library leaves lock files there, and files that it changes later
        datasets.load_dataset(str(folder), cache_dir=str(scratch)).save_to_disk(str(part))
        shutil.rmtree(scratch)

    key = fingerprint([datasets.__version__, str(folder.resolve()), files_state(folder)])
    artifact = Artifact(cache / "datasets" / key[:20], "unpacked tables", f"the parquet files of {folder}")
    return artifact.kept(build, lambda path, _: datasets.load_from_disk(str(path))).value


def _advice(folder: Path | None) -> str:
    if folder is not None:
        return ""
    return "; there is no folder of this name either: give the path of a folder of images where the hub is out of reach"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the libraries' progress bars and log messages inside the `with` block; errors are still raised."""
    # heavy, see the top of the module
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels, bars = [logger.level for logger in loggers], not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            enable_progress_bars()


def _one_split(loaded: Any, source: DatasetSource) -> Any:
    if not isinstance(loaded, dict):
        if source.split is not None:
            raise AttrbenchError(f"data set {source.path} has no splits, and split '{source.split}' is asked for")
        return loaded
    names = list(loaded)
    split = source.split or (names[0] if len(names) == 1 else "train")
    if split not in names:
        raise AttrbenchError(f"data set {source.path} has no split '{split}' (split): it has {', '.join(names)}")
    return loaded[split]


def _image_column(table: Any, name: str | None, where: str) -> str:
    from datasets import Image as ImageFeature  # heavy, see the top of the module

    images: list[str] = [key for key, feature in table.features.items() if isinstance(feature, ImageFeature)]
    if name is not None:
        need_column(table.column_names, name, "image_column", where)
        if name not in images:
            raise AttrbenchError(f"{where}: column '{name}' (image_column) holds no images")
        return name
    if len(images) != 1:
        problem = f"several columns of images ({', '.join(images)})" if images else "no column of images"
        raise AttrbenchError(f"{where} has {problem}: name one with image_column")
    return images[0]


def _texts(table: Any, column: str, count: int, where: str) -> Sequence[str]:
    """Return the first `count` values of a column as text; class labels become class names."""
    feature = table.features[column]
    names = getattr(feature, "int2str", None)
    texts = []
    for row, value in enumerate(table.select_columns([column])[:count][column]):
        if isinstance(value, list | dict):
            raise AttrbenchError(f"{where}, row {row}: column '{column}' holds no single text")
        known = names is not None and isinstance(value, int) and value >= 0
        texts.append("" if value is None else str(names(value)) if known and names is not None else str(value))
    return texts
