"""Digests of the code of classes without a source file, such as a method that is defined in a notebook.

A class that was defined in a notebook, or in a script, is hashed by its compiled code and by everything in its module
that this code refers to: helper functions, other classes, constants. So an edit of any of them changes the digest,
and neither another cell, a comment, nor running the same cell again does. Source text is not used: `inspect` finds
none for a class of a notebook, and a file may have changed since it was loaded.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import hashlib
import sys
import sysconfig
import types
import uuid
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from weakref import WeakKeyDictionary

UNKNOWN = "unknown-"
"""How the digest of a class begins that cannot be told."""

_GLOBAL_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")
_SKIPPED = {
    "__abstractmethods__",
    "__annotate__",
    "__annotate_func__",
    "__annotations_cache__",
    "__class_vars__",
    "__classdictcell__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__orig_bases__",
    "__parameters__",
    "__private_attributes__",
    "__qualname__",
    "__signature__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
    "model_fields",
}
"""Members of a class that say nothing of what it does, or differ each time that it is defined."""

_unknown: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def class_digest(kind: type) -> str:
    """Return a hash of a class defined outside any file and of all that its code uses; empty for a class in a file.

    A reference to a library (the standard one, or what is installed in site-packages) counts by name and version, one
    to a module of the user's own by the contents of its file, or of all Python files of its package.

    Returns:
        64 hex digits; or a text that begins with `UNKNOWN` and is another for each class object, where the class refers
        to something of which no digest can be made. Nothing that was kept under such a digest may be used again.
    """
    if not _has_fileless_part(kind):
        return ""
    try:
        return _Hasher().digest(kind)
    except Exception:  # whatever __reduce_ex__ of a stranger's object raises
        return _unknown.setdefault(kind, UNKNOWN + uuid.uuid4().hex)


def is_fileless(module: str) -> bool:
    """Return whether a module has no file to hash, or (`__main__`) may differ from it: notebooks, scripts, the REPL."""
    if module in ("__main__", "__mp_main__"):
        return True
    loaded = sys.modules.get(module)
    if module in sys.builtin_module_names:
        return False
    return loaded is None or (getattr(loaded, "__file__", None) is None and not hasattr(loaded, "__path__"))


def _has_fileless_part(kind: type) -> bool:
    return any(is_fileless(base.__module__) for base in kind.__mro__)


class _Hasher:
    """A hasher of Python objects (classes, functions, code, arrays, containers) that hashes each object once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}  # with the object, so that its id is not given out again

    def digest(self, value: object) -> str:
        """Add a Python object and all that it refers to to the hash, and return the hash as 64 hex digits."""
        self._add(value)
        return self._hash.hexdigest()

    def _token(self, *parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def _add(self, value: object) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | type(...)):
            self._token(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        if not isinstance(value, tuple | frozenset | types.CodeType):  # which the compiler may share or not
            if id(value) in self._seen:
                self._token("seen", self._seen[id(value)][0])
                return
            self._seen[id(value)] = len(self._seen), value
        match value:
            case type():
                self._add_class(value)
            case types.ModuleType():
                self._token("module", *_module_state(value.__name__))
            case types.FunctionType():
                self._add_function(value)
            case types.CodeType():
                self._add_code(value)
            case types.MethodType():
                self._all("method", value.__func__, value.__self__)
            case classmethod() | staticmethod():
                self._all(type(value).__name__, value.__func__)
            case functools.cached_property():
                self._all("cached property", value.func)
            case property():
                self._all("property", value.fget, value.fset, value.fdel)
            case functools.partial():
                self._all("partial", value.func, value.args, value.keywords)
            case (
                types.BuiltinFunctionType()
                | types.WrapperDescriptorType()
                | types.MethodDescriptorType()
                | types.MemberDescriptorType()
            ):
                self._token("builtin", getattr(value, "__module__", ""), value.__qualname__)
            case list() | tuple():
                self._all(type(value).__name__, len(value), *value)
            case set() | frozenset():
                self._token(type(value).__name__, *sorted(_Hasher().digest(item) for item in value))
            case dict():
                self._all("dict", len(value), *(part for pair in value.items() for part in pair))
            case Enum():
                self._all("enum", type(value), value.name)
            case _:
                self._add_object(value)

    def _all(self, kind: str, *values: object) -> None:
        self._token(kind)
        for value in values:
            self._add(value)

    def _add_class(self, kind: type) -> None:
        if not _has_fileless_part(kind):
            self._token("class", kind.__qualname__, *_module_state(kind.__module__))
            return
        self._all("class", kind.__qualname__, *kind.__bases__)
        for name, value in sorted(vars(kind).items()):
            if name in _SKIPPED or name.startswith(("__pydantic_", "_member", "_value2member")):
                continue
            self._token(name)
            if name == "__annotations__":
                self._token(sorted((field, str(annotation)) for field, annotation in value.items()))
            elif name == "__dataclass_fields__":
                self._token(sorted(value))  # the defaults are in the methods that were made of them
            else:
                self._add(value)
        self._add_pydantic(kind)

    def _add_pydantic(self, kind: type) -> None:
        """Add a pydantic model's fields and validators, which are not members of its class, to the hash."""
        fields = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", {})
        for name, field in sorted(fields.items()):
            self._all(name, field.default, field.default_factory, list(field.metadata), str(field.annotation))
        decorators = getattr(kind, "__pydantic_decorators__", None)
        for group in () if decorators is None else dataclasses.fields(decorators):
            named = getattr(decorators, group.name).items()
            self._token(sorted((name, str(decorator.info)) for name, decorator in named))

    def _add_function(self, function: types.FunctionType) -> None:
        if not is_fileless(function.__module__ or "__main__"):
            self._token("function", function.__qualname__, *_module_state(function.__module__))
            return
        self._all("function", function.__code__, function.__defaults__, function.__kwdefaults__)
        self._all("attributes", vars(function))
        for cell in function.__closure__ or ():
            try:
                self._add(cell.cell_contents)
            except ValueError:  # not filled yet
                self._token("empty")
        for name in sorted(set(_global_names(function.__code__))):
            self._token("global", name)
            if name in function.__globals__:
                self._add(function.__globals__[name])

    def _add_code(self, code: types.CodeType) -> None:
        """Add compiled code to the hash, without its file name and line numbers, so that moving it changes nothing."""
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        self._all("code", code.co_name, code.co_code, counts, names, code.co_exceptiontable, code.co_consts)

    def _add_object(self, value: object) -> None:
        """Add an instance of any other class to the hash: an array's content, or its class and its pickling state."""
        array = _as_array(value)
        if array is not None:
            self._token("array", *array)
            return
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):  # functools.cache and the like
            self._all("wrapped", type(value), wrapped)
            return
        reducer = copyreg.dispatch_table.get(type(value))
        rebuilt = value.__reduce_ex__(4) if reducer is None else reducer(value)
        if isinstance(rebuilt, str):
            self._token("named", type(value).__module__, rebuilt)
            return
        self._all("object", type(value))
        for part in rebuilt:
            self._add(list(part) if isinstance(part, Iterator) else part)


def _global_names(code: types.CodeType) -> Iterator[str]:
    """Yield the global names that compiled code loads, including those in nested functions."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_LOADS:
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _as_array(value: object) -> tuple[str, str, bytes] | None:
    """Return data type, shape and bytes of a NumPy array or a torch tensor for hashing; None for anything else."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind == "numpy.ndarray" and not value.dtype.hasobject:  # type: ignore[attr-defined]
        return str(value.dtype), str(value.shape), value.tobytes()  # type: ignore[attr-defined]
    if kind in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        data = value.detach().cpu().contiguous().flatten()  # type: ignore[attr-defined]
        kept = data.view(sys.modules["torch"].uint8).numpy().tobytes()
        return str(value.dtype), str(tuple(value.shape)), kept  # type: ignore[attr-defined]
    return None


def _module_state(name: str) -> tuple[str, str]:
    """Return a module's name with its library version, or with a hash of its file or package if it is user code."""
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    file = getattr(loaded, "__file__", None)
    folders = [Path(file)] if file else [Path(folder) for folder in getattr(loaded, "__path__", ())]
    if not folders or top == "attrbench" or any(_is_installed(folder) for folder in folders):
        return name, str(getattr(loaded, "__version__", ""))
    if file and Path(file).name != "__init__.py":
        return name, hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return name, _sources_digest(folder.parent if file else folder for folder in folders)


def is_library(module: str) -> bool:
    """Return whether a loaded module belongs to the standard library or to an installed distribution."""
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    return top in sys.stdlib_module_names or (file is not None and _is_installed(Path(file)))


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(path) for path in _library_folders())


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    paths: Mapping[str, str] = sysconfig.get_paths()
    return tuple(Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _sources_digest(folders: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
