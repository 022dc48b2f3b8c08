"""The stored notebooks are the output of one clean run, and nbval checks every one of their code cells."""

import builtins
import copy
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import conftest
from utils.notebooks import FIRST_CELL, NOTEBOOKS, ROOT

MAX_LINES = 40
MIN_TEXT = 0.4
SKIPPING = {"nbval-skip", "skip-execution", "raises-exception", "nbval-raises-exception"}
# An absolute path with at least two parts; Colab's own folder is the same for everybody.
MACHINE_PATH = re.compile(r"(?<![\w.:/~<>)\]}\\-])/(?!content\b|dev/null\b)[A-Za-z_][\w.-]*/[\w.-]+|\b[A-Z]:\\\\?\w+")


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(value) -> str:
    return value if isinstance(value, str) else "".join(value)


def counts_are_in_order(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts {counts}"]


def no_stored_errors(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    return [str(o) for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]


def code_cells_are_short(notebook):
    lengths = {cell["id"]: len(text_of(cell["source"]).splitlines()) for cell in code_cells(notebook)}
    return [f"{name}: {length} lines" for name, length in lengths.items() if length > MAX_LINES]


def enough_text(notebook):
    texts = sum(cell["cell_type"] == "markdown" for cell in notebook["cells"])
    return [] if texts >= MIN_TEXT * len(notebook["cells"]) else [f"{texts} of {len(notebook['cells'])} cells are text"]


def ids_are_unique(notebook):
    ids = [cell.get("id") for cell in notebook["cells"]]
    return [f"cell {i}: id {name!r}" for i, name in enumerate(ids) if not name or ids.count(name) > 1]


def no_machine_paths(notebook):
    texts = [text_of(cell["source"]) for cell in notebook["cells"]]
    for output in (output for cell in code_cells(notebook) for output in cell["outputs"]):
        texts.append(text_of(output.get("text", "")))
        texts += [text_of(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return [
        found.group()
        for text in texts
        for found in [*MACHINE_PATH.finditer(text), *re.finditer(re.escape(str(ROOT)), text)]
    ]


def no_skipped_cells(notebook):
    tagged = [cell["id"] for cell in code_cells(notebook) if SKIPPING & set(cell["metadata"].get("tags", []))]
    commented = [
        cell["id"]
        for cell in code_cells(notebook)
        if re.search(r"^\s*#\s*(NBVAL_SKIP|NBVAL_RAISES_EXCEPTION)", text_of(cell["source"]), re.MULTILINE)
    ]
    return tagged + commented


def lacking(notebook, tag, words):
    """Code cells with these words in them that do not have a tag."""
    return [
        cell["id"]
        for cell in code_cells(notebook)
        if words in text_of(cell["source"]) and tag not in cell["metadata"].get("tags", [])
    ]


def what_a_profile_leaves_out_is_not_compared(notebook):
    """A cell that only the full profile fills has stored outputs that the tests' quick run lacks."""
    return lacking(notebook, "nbval-ignore-output", "not in OPEN")


def private_pictures_are_tagged(notebook):
    """Cells whose figures stay out of the published folder; the runner goes by their tag."""
    return lacking(notebook, "private", "folder=PRIVATE")


def first_cell_is_the_shared_one(notebook):
    first = text_of(code_cells(notebook)[0]["source"])
    return [] if first == FIRST_CELL else [first]


GUARDS = [
    counts_are_in_order,
    no_stored_errors,
    code_cells_are_short,
    enough_text,
    ids_are_unique,
    no_machine_paths,
    no_skipped_cells,
    what_a_profile_leaves_out_is_not_compared,
    private_pictures_are_tagged,
    first_cell_is_the_shared_one,
]


def collected(folder: Path, *names: str) -> dict[str, int]:
    """How many cells of each notebook nbval collects, as `make test` calls it."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--nbval", "--nbval-current-env", *names]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.splitlines()
    return {
        name: sum(re.match(rf"{re.escape(name)}.*::Cell \d+$", line) is not None for line in lines) for name in names
    }


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))  # not nbformat.read, which mends what the guards look for


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_notebook(name, guard):
    assert guard(load(ROOT / name)) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_all_numbers_are_of_is_the_first_thing_that_is_said(name):
    outputs = [output for cell in code_cells(load(ROOT / name)) for output in cell["outputs"]]
    assert text_of(outputs[0].get("text", "")).startswith("DATA: ")


def test_the_stored_results_lie_where_these_networks_come_out():
    """The quick profile's floors are wide; those of MNIST, full profile, are held on what is stored."""
    stored = json.loads((ROOT / "figures/summary-task1.json").read_text(encoding="utf-8"))
    assert stored["profile"] == "full" and stored["source"].startswith("MNIST, 60,000")
    mean = {name: found["mean"] for name, found in stored["intervals"].items()}
    assert mean["teacher"] >= 99.20 and mean["distilled, shifted views"] >= 99.05
    assert 98.65 <= mean["distilled"] <= 98.95 and 97.85 <= mean["from scratch"] <= 98.25


def test_all_notebooks_are_listed_and_tested():
    assert sorted(path.name for path in ROOT.glob("*.ipynb")) == list(NOTEBOOKS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"\nNOTEBOOKS = {' '.join(NOTEBOOKS)}\n" in makefile
    assert re.search(r"^test: environment.*\n\t.* --nbval .*\\\n\t.* \$\(NOTEBOOKS\) tests$", makefile, re.MULTILINE)


def test_the_longest_files_are_tested_first_and_the_others_keep_their_order():
    names = ["test_a.py", "test_training.py", "test_b.py", "Task2.ipynb", "Task1.ipynb"]
    items = [types.SimpleNamespace(path=ROOT / name) for name in names]
    conftest.pytest_collection_modifyitems(items)
    assert [item.path.name for item in items] == [*names[:2:-1], "test_training.py", "test_a.py", "test_b.py"]
    assert all([*ROOT.glob(name), *(ROOT / "tests").rglob(name)] for name in conftest.LONGEST)


def test_nbval_s_kernels_have_the_environment_that_make_run_gives_and_an_output_folder_of_their_own():
    before = dict(os.environ)
    setup = conftest.pytest_runtest_setup(types.SimpleNamespace(path=ROOT / "Task1.ipynb"))
    next(setup)
    assert os.environ["KD_OUTPUT"] == str(ROOT / "build/test") and os.environ["KD_PROFILE"] == "quick"
    assert "MPLBACKEND" not in os.environ  # or no picture would come into the notebook
    with pytest.raises(StopIteration):
        next(setup)
    assert dict(os.environ) == before
    next(conftest.pytest_runtest_setup(types.SimpleNamespace(path=ROOT / "tests/test_notebooks.py")))
    assert dict(os.environ) == before


def test_nbval_collects_every_code_cell():
    assert collected(ROOT, *NOTEBOOKS) == {name: len(code_cells(load(ROOT / name))) for name in NOTEBOOKS}


@pytest.fixture
def good(tmp_path):
    """A notebook without a fault, written and read back."""
    cells = [
        nbformat.v4.new_markdown_cell("# Title, and/or $a/b/c$ and https://example.org/a/b", id="title"),
        nbformat.v4.new_code_cell(FIRST_CELL, id="first", execution_count=1),
        nbformat.v4.new_markdown_cell(
            "Text with `figures/quick/a.png`, `/content/drive` and <b>bold</b>/thin.", id="text"
        ),
        nbformat.v4.new_code_cell(
            "print(1)",
            id="print",
            execution_count=2,
            outputs=[nbformat.v4.new_output("stream", name="stdout", text="1\n")],
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "good.ipynb")
    return load(tmp_path / "good.ipynb")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_guard_passes_a_good_notebook(guard, good):
    assert guard(good) == []


def stream(name, text):
    return {"output_type": "stream", "name": name, "text": [text]}


def data(kind, text):
    return {"output_type": "display_data", "metadata": {}, "data": {kind: [text]}}


ERROR = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
FAULTS = [
    (counts_are_in_order, lambda cells: cells[3].update(execution_count=3)),
    (counts_are_in_order, lambda cells: cells[3].update(execution_count=None)),
    (no_stored_errors, lambda cells: cells[3]["outputs"].append(ERROR)),
    (no_stored_errors, lambda cells: cells[3]["outputs"].append(stream("stderr", "warning"))),
    (code_cells_are_short, lambda cells: cells[3].update(source="x = 1\n" * 41)),
    (enough_text, lambda cells: cells.extend(copy.deepcopy(cells[3]) for _ in range(2))),
    (ids_are_unique, lambda cells: cells[3].update(id="first")),
    (ids_are_unique, lambda cells: cells[0].pop("id")),
    (no_machine_paths, lambda cells: cells[0].update(source="see /home/someone/data")),
    (no_machine_paths, lambda cells: cells[3].update(source='open("/srv/data/x.npz")')),
    (no_machine_paths, lambda cells: cells[3]["outputs"].append(stream("stdout", f"saved to {ROOT}/x.png"))),
    (no_machine_paths, lambda cells: cells[3]["outputs"].append(data("text/html", "<i>C:\\Users\\me</i>"))),
    (no_machine_paths, lambda cells: cells[3]["outputs"].append(data("text/plain", "PosixPath('/opt/x/y')"))),
    (no_skipped_cells, lambda cells: cells[3]["metadata"].update(tags=["nbval-skip"])),
    (what_a_profile_leaves_out_is_not_compared, lambda cells: cells[3].update(source='if "x" not in OPEN:\n    run()')),
    (private_pictures_are_tagged, lambda cells: cells[3].update(source='publish("x", draw, folder=PRIVATE)')),
    (no_skipped_cells, lambda cells: cells[3].update(source="# NBVAL_SKIP\nprint(1)")),
    (first_cell_is_the_shared_one, lambda cells: cells[1].update(source=FIRST_CELL + "\n")),
]


@pytest.mark.parametrize(("guard", "spoil"), FAULTS, ids=[f"{f[0].__name__}-{i}" for i, f in enumerate(FAULTS)])
def test_guard_catches_its_fault(guard, spoil, good):
    spoil(good["cells"])
    assert guard(good) != []


def test_collection_is_counted_by_notebook(good, tmp_path):
    assert collected(tmp_path, "good.ipynb") == {"good.ipynb": len(code_cells(good))}


# The first cell, on machines that differ in where the project lies. Its /content is a folder of the test.


@pytest.fixture
def run_first_cell(tmp_path, monkeypatch):
    """Runs the first cell from a folder; gives the pip commands it started."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def run(folder):
        monkeypatch.chdir(folder)
        source = FIRST_CELL.replace('"/content', f'"{tmp_path / "content"}')
        exec(source, {"__builtins__": builtins})
        return commands

    return run


def make_project(folder: Path) -> Path:
    (folder / "utils").mkdir(parents=True)
    (folder / "utils/settings.py").touch()
    return folder


def enter_colab(monkeypatch, mount):
    drive = types.SimpleNamespace(mount=mount)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)


def must_not_mount(folder):
    raise AssertionError(f"{folder} was mounted, though the project was there")


@pytest.mark.parametrize("start", [".", "figures/quick"])
def test_first_cell_finds_a_local_project_and_installs_nothing(tmp_path, run_first_cell, monkeypatch, start):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    project = make_project(tmp_path / "a project")
    (project / start).mkdir(parents=True, exist_ok=True)
    assert run_first_cell(project / start) == []
    assert Path.cwd() == project
    assert sys.path[0] == str(project)


@pytest.mark.parametrize("place", ["clone", "unzipped/clone", "drive/MyDrive/a", "drive/MyDrive/a/b/c"])
def test_first_cell_finds_a_project_in_colab(tmp_path, run_first_cell, monkeypatch, place):
    project = make_project(tmp_path / "content" / place)
    enter_colab(monkeypatch, must_not_mount)
    run_first_cell(tmp_path / "content")
    assert Path.cwd() == project


def test_first_cell_mounts_drive_where_no_project_is_found(tmp_path, run_first_cell, monkeypatch):
    (tmp_path / "content").mkdir()
    enter_colab(monkeypatch, lambda folder: make_project(Path(folder) / "MyDrive/course/project"))
    run_first_cell(tmp_path / "content")
    assert Path.cwd() == tmp_path / "content/drive/MyDrive/course/project"


def test_first_cell_says_what_to_do_where_there_is_no_project(tmp_path, run_first_cell):
    with pytest.raises(FileNotFoundError, match="put it, unzipped, into"):
        run_first_cell(tmp_path)


@pytest.mark.parametrize("present", [(), ("lime",), ("lime", "keras_flops")])
def test_first_cell_installs_only_what_colab_lacks(tmp_path, run_first_cell, monkeypatch, present):
    make_project(tmp_path / "content/clone")
    enter_colab(monkeypatch, must_not_mount)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in present else None)
    commands = run_first_cell(tmp_path / "content")
    lacking = [name for name in ("lime", "keras_flops") if name not in present]
    assert [command[5:] for command in commands] == ([lacking] if lacking else [])


def mhist_folder(folder, train=200, test=90):
    """A folder in MHIST's form, of flat pictures: what nbval, which runs on the stand-in, never meets."""
    votes = np.random.default_rng(0).integers(0, 8, train + test)
    lines = ["Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition"]
    (folder / "images").mkdir(parents=True)
    for i, n in enumerate(votes):
        Image.new("RGB", (224, 224), (30 * int(n), 100, 200)).save(folder / "images" / f"MHIST_{i:03}.png")
        lines.append(f"MHIST_{i:03}.png,{'SSA' if n >= 4 else 'HP'},{n},{'train' if i < train else 'test'}")
    (folder / "annotations.csv").write_text("\n".join(lines), encoding="utf-8")


def test_task_2_takes_mhist_where_it_lies_and_publishes_none_of_its_pictures(tmp_path):
    mhist_folder(tmp_path / "data" / "mhist_dataset")
    source = ["".join(cell["source"]) for cell in code_cells(load(ROOT / "Task2.ipynb"))]
    (last,) = [i for i, code in enumerate(source) if '"task2_views"' in code]
    skipped = ("gradient_at_first_block", "count_flops", "teacher_counts")  # what asks the networks alone
    wanted = [code for code in source[: last + 1] if not any(name in code for name in skipped)]
    asked = """
assert data.name == "MHIST" and not data.standin and WEIGHTS == "imagenet" and masks is None
assert [len(part) for part in (data.train, data.validation, data.test)] == [96, 24, 80]
"""
    script = tmp_path / "cells.py"
    script.write_text("\n".join([*wanted, asked]), encoding="utf-8")
    places = {"KD_DATA": str(tmp_path / "data"), "KD_OUTPUT": str(tmp_path / "out"), "KD_PROFILE": "quick"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=os.environ | places | {"MPLBACKEND": "Agg"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DATA: MHIST, 200 + 90, not as published" in done.stdout
    pictures = {path.parent.name for path in (tmp_path / "out").rglob("*.png")}
    assert pictures == {"private_figures"}
