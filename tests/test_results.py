"""Records: whole or absent, found again only for the same configuration, never overwritten when corrupt."""

import importlib
import json
import linecache
import os
import sys

import numpy as np
import pytest

import utils
from utils import results

CONFIG = {"task": "task1", "model": "student", "method": "kd", "purpose": "report", "seed": 3, "alpha": 0.5}


def test_a_record_is_found_again_with_its_origin(tmp_path):
    path = results.save_record(tmp_path, CONFIG, {"status": "finished", "metrics": {"accuracy": np.float32(0.5)}})
    assert path.name.startswith("task1-student-kd-report-seed3-")
    record = results.load_record(tmp_path, CONFIG)
    assert record["metrics"] == {"accuracy": 0.5} and record["config"] == CONFIG
    assert {"python", "tensorflow", "keras", "numpy"} <= set(record["versions"])
    assert record["recorded_at"].endswith("+00:00")


def test_a_failure_is_recorded_but_never_over_a_finished_run(tmp_path):
    results.save_failure(tmp_path, CONFIG, {"reason": "the loss was not finite"})
    path = results.record_path(tmp_path, CONFIG)
    assert results.read_json(path)["status"] == "failed" and results.load_record(tmp_path, CONFIG) is None
    results.save_record(tmp_path, CONFIG, {"status": "finished", "metrics": {}})
    before = path.read_bytes()
    results.save_failure(tmp_path, CONFIG, {"reason": "made again, on a machine that cannot"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [{"alpha": 0.6}, {"seed": 4}, {"code": "other"}])
def test_another_configuration_has_no_record(tmp_path, change):
    results.save_record(tmp_path, CONFIG, {"status": "finished"})
    assert results.load_record(tmp_path, CONFIG | change) is None


def test_the_order_of_the_entries_does_not_matter():
    assert results.key_of(CONFIG) == results.key_of(dict(reversed(CONFIG.items())))


def test_a_failed_run_is_recorded_but_is_no_result(tmp_path):
    path = results.save_record(tmp_path, CONFIG, {"status": "failed", "reason": "NaN at step 7"})
    assert json.loads(path.read_text())["reason"] == "NaN at step 7"
    assert results.load_record(tmp_path, CONFIG) is None


@pytest.mark.parametrize("content", [b'{"status": "fin', b"", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_corrupt_record_is_set_aside_with_a_message(tmp_path, capsys, content):
    path = results.record_path(tmp_path, CONFIG)
    path.write_bytes(content)
    assert results.load_record(tmp_path, CONFIG) is None
    assert "cannot be read" in capsys.readouterr().out
    aside = [p for p in tmp_path.iterdir() if "corrupt" in p.name]
    assert len(aside) == 1 and aside[0].read_bytes() == content and not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: {}, "another configuration"),
        (lambda record: record | {"config": record["config"] | {"alpha": 0.6}}, "another configuration"),
        (lambda record: {"status": "finished", "config": record["config"]}, "no whole record"),
        (lambda record: {name: record[name] for name in ("config", "metrics", "recorded_at")}, "no whole record"),
    ],
    ids=["empty", "another's configuration", "without its time", "without its status"],
)
def test_a_file_that_can_be_read_but_is_no_record_of_this_run_is_set_aside_too(tmp_path, capsys, change, message):
    path = results.save_record(tmp_path, CONFIG, {"status": "finished", "metrics": {}})
    content = json.dumps(change(json.loads(path.read_text())))
    path.write_text(content)
    assert results.load_record(tmp_path, CONFIG) is None
    assert message in capsys.readouterr().out
    aside = [p for p in tmp_path.iterdir() if "corrupt" in p.name]
    assert len(aside) == 1 and aside[0].read_text() == content and not path.exists()


def test_a_write_that_is_cut_off_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = results.write_json(tmp_path / "a.json", {"old": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        results.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_json_lacks_are_written_by_name(tmp_path):
    path = results.write_json(tmp_path / "a.json", {"x": float("nan"), "y": np.array([1, 2]), "z": np.int64(3)})
    assert json.loads(path.read_text()) == {"x": "nan", "y": [1, 2], "z": 3}


def test_digest_sees_values_types_and_shapes():
    a = np.arange(6, dtype=np.int32)
    assert results.digest(a) == results.digest(a.copy())
    changed = a.copy()
    changed[3] += 1
    others = [results.digest(x) for x in (changed, a.astype(np.int64), a.reshape(2, 3))]
    assert results.digest(a) not in others


def _module(folder, monkeypatch, name, code):
    """utils.NAME, made of this code in a folder of its own, as if it lay in the package."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr(utils, "__path__", [*utils.__path__, str(folder)])
    monkeypatch.setattr(utils, name, None, raising=False)
    monkeypatch.delitem(sys.modules, f"utils.{name}", raising=False)
    importlib.invalidate_caches()
    linecache.clearcache()
    return importlib.import_module(f"utils.{name}")


def _functions(tmp_path, monkeypatch, body, factor=2):
    """A function of a module of this package, which calls another, whose body is given."""
    code = (
        f"FACTOR = {factor}\n\n\ndef inner(x):\n{body}\n\n\n"
        "def outer(x):\n    '''Doc.'''\n    return inner(x) + 1\n\n\n"
        "class Base:\n    def go(self, x):\n        return inner(x)\n"
    )
    return _module(tmp_path / "made", monkeypatch, "made_module", code).outer


def test_the_code_version_follows_calls_and_ignores_comments(tmp_path, monkeypatch):
    versions = [
        results.code_version(_functions(tmp_path, monkeypatch, body))
        for body in ("    return 2 * x", "    '''Doc.'''\n    # why\n    return 2 * x", "    return 3 * x")
    ]
    assert versions[0] == versions[1] != versions[2]


def test_the_code_version_sees_the_constants_that_are_read(tmp_path, monkeypatch):
    versions = [
        results.code_version(_functions(tmp_path, monkeypatch, "    return FACTOR * x", factor)) for factor in (2, 2, 3)
    ]
    assert versions[0] == versions[1] != versions[2]


def test_the_code_version_does_not_depend_on_the_version_of_python(tmp_path, monkeypatch):
    # Python 3.12 and 3.13 write what a function lacks (type parameters, lists without entries) in other ways than 3.11.
    body = "    return f'{x:>3}', [*x], {**x}, (lambda y=None, *, z: y)(x, z=[]), print()"
    assert results.code_version(_functions(tmp_path, monkeypatch, body)) == "cd250864f1ef"


@pytest.mark.parametrize(
    "code",
    [
        "from utils import made_module\n\n\ndef user(x):\n    return made_module.inner(x)\n",
        "from utils.made_module import Base\n\n\nclass User(Base):\n    pass\n",
    ],
    ids=["module.function", "base class"],
)
def test_the_code_version_follows_modules_and_base_classes(tmp_path, monkeypatch, code):
    """As in losses.kl(...), and in a method that inherits its loss from another."""
    versions = []
    for body in ("    return 2 * x", "    # why\n    return 2 * x", "    return 3 * x"):
        _functions(tmp_path, monkeypatch, body)
        module = _module(tmp_path / "using", monkeypatch, "user_module", code)
        versions.append(results.code_version(getattr(module, "user", None) or module.User))
    assert versions[0] == versions[1] != versions[2]


def test_file_digest_of_a_missing_file_is_none(tmp_path):
    assert results.file_digest(tmp_path / "absent") is None


def test_a_file_is_the_old_one_or_the_whole_new_one(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with results.whole_file(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), results.whole_file(path, ".tmp.txt") as temporary:
        temporary.write_text("half of the new")
        assert temporary.name.endswith(".tmp.txt")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
