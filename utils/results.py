"""Every number on disk, with where it came from: one JSON file for each training run, written at once.

Files are written under a temporary name and renamed, so that a run that is killed leaves either the
whole record or none. A file that cannot be read is set aside under another name, never overwritten.
"""

import ast
import hashlib
import inspect
import json
import math
import os
import platform
import sys
import textwrap
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import numpy as np


def _dump(node) -> str:
    """A syntax tree as text, as Python 3.11's `ast.dump` writes it: later ones name what type parameters a function
    lacks, or leave out empty lists, and would find none of the records that another version of Python made."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: getattr(node, name, None) for name in node._fields}
    absent = {name for name, value in fields.items() if value is None and getattr(type(node), name, ...) is None}
    absent |= {"type_params"} if not fields.get("type_params") else set()
    said = (f"{name}={_dump(value)}" for name, value in fields.items() if name not in absent)
    return f"{type(node).__name__}({', '.join(said)})"


# Under the name of the library's: the functions below are themselves part of what a digest covers, so that another name
# in them would part every stored record from the code that made it. A tree is kept, and written out once.
ast = SimpleNamespace(**vars(ast) | {"dump": cache(_dump)})

PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn", "scipy", "scikit-image", "lime", "ai-edge-litert")


@cache
def versions() -> dict:
    """Versions of the libraries that numbers depend on, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source build or another distribution of the same library
            found[package] = "unknown"
    return found


def digest(*arrays, length: int = 16) -> str:
    """Hex digest over the types, shapes and bytes of arrays: equal exactly if the arrays are."""
    sha = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # no copy, of a mapped file least of all
    return sha.hexdigest()[:length]


def key_of(config: dict) -> str:
    """Short hex key of a configuration: equal for equal configurations, whatever the order of their entries."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _bare_tree(thing) -> ast.AST:
    """Syntax tree of a function or class without docstrings; comments and layout are not in a tree anyway."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:]
    return tree


_bare_tree = cache(_bare_tree)  # not as a decorator, which would be part of the digests


def _mentions(thing, tree: ast.AST) -> tuple[list, list]:
    """What the code of `thing` names, as `name` or as `module.name`: functions and classes of this package, and
    constants."""
    scope = vars(sys.modules[thing.__module__])
    package = __name__.partition(".")[0]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.append((node.id, scope.get(node.id)))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = scope.get(node.value.id)
            ours = inspect.ismodule(module) and module.__name__.startswith(package)
            found.append((node.attr, getattr(module, node.attr, None) if ours else None))
    code = [f for _, f in found if inspect.isroutine(f) or inspect.isclass(f)]
    constants = [(name, repr(c)) for name, c in found if isinstance(c, bool | int | float | str | tuple | list | dict)]
    return [f for f in code if (f.__module__ or "").startswith(package)], constants


@cache  # and so the code as it was loaded, even if a file is edited while a long run goes on
def code_version(*objects) -> str:
    """Hex digest of functions and classes, of all of this package that they call on, and of the constants they read.

    A recorded result is used again only while the code that made it says the same. Comments,
    docstrings and layout do not count.
    """
    waiting, trees = list(objects), {}
    while waiting:
        thing = waiting.pop()
        name = f"{thing.__module__}.{thing.__qualname__}"
        if name not in trees:
            tree = _bare_tree(thing)
            code, constants = _mentions(thing, tree)
            trees[name] = (ast.dump(tree), sorted(constants))
            waiting += code
    return hashlib.sha256(repr(sorted(trees.items())).encode()).hexdigest()[:12]


def _plain(value):
    """NumPy numbers and arrays as JSON's own types; a NaN or infinity becomes its name, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@contextmanager
def whole_file(path: Path, suffix: str = ".tmp"):
    """A temporary path to write to, which becomes `path` if the block ends well: the whole new file or the old one.

    Its name ends in `suffix`, for writers that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> Path:
    """Write JSON so that the file is either the old one or the whole new one, never a part."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(_plain(content), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def read_json(path: Path) -> dict | None:
    """The content of a JSON file, or None where there is none. A corrupt file is set aside with a message."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}, not an object")
        return content
    except FileNotFoundError:
        return None
    except ValueError as fault:  # bad JSON and bad UTF-8 are both ValueErrors
        _set_aside(path, f"cannot be read ({fault})")
        return None


def _set_aside(path: Path, fault: str) -> None:
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    os.replace(path, aside)
    print(f"{path.name} {fault}. It is kept as {aside.name}; its run will be made again.")


def record_path(folder: Path, config: dict) -> Path:
    """Where the run of this configuration is recorded: a name one can read, and the key that tells it apart."""
    name = "-".join(str(config[part]) for part in ("task", "model", "method", "purpose") if part in config)
    return Path(folder) / f"{name}-seed{config.get('seed', 0)}-{key_of(config)}.json"


def save_record(folder: Path, config: dict, content: dict) -> Path:
    """Record a run: its configuration, the content given, versions and the time."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    return write_json(
        record_path(folder, config), {"config": config, **content, "versions": versions(), "recorded_at": stamp}
    )


def save_failure(folder: Path, config: dict, content: dict) -> None:
    """Record a run that failed, but never over a finished one: weights that are gone are made again under its name."""
    if load_record(folder, config) is None:
        save_record(folder, config, content | {"status": "failed"})


def load_record(folder: Path, config: dict) -> dict | None:
    """The finished run of exactly this configuration, or None. Failed runs are kept on disk but never returned, and a
    file that is no whole record of this configuration is set aside."""
    path = record_path(folder, config)
    record = read_json(path)
    if record is None:
        return None
    if record.get("config") != _plain(config):
        _set_aside(path, "is named after another configuration than it holds")
    elif record.get("status") not in ("finished", "failed") or "recorded_at" not in record:
        _set_aside(path, "is no whole record: it lacks its status or the time it was made")
    elif record["status"] == "finished":
        return record
    return None


def file_digest(path: Path) -> str | None:
    """sha256 of a file's bytes, or None where there is no file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
