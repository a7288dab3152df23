"""Task files for tests."""

import json


def toml(value):
    """A value as TOML writes it; None is left out by `write_task`."""
    return json.dumps(value)


def write_task(path, /, **tables):
    """Writes a task file with these tables; `task` and `model` have defaults."""
    tables = {"task": {"name": "mine"}, "model": {"model": "model"}, "train": {"path": "images"}} | tables
    lines = []
    for name, values in tables.items():
        if values is not None:
            lines += [f"[{name.replace('__', '.')}]", *(f"{key} = {toml(value)}" for key, value in values.items()), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
