"""utils.notebooks on small notebooks: what it writes, what it says, and what it does about a cell that fails."""

import asyncio
import base64
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageFilter

from utils import notebooks
from utils.notebooks import ROOT, clock, heading, main, time_left
from utils.settings import settings

SUMMARY = {
    "title": "Task 9",
    "profile": "quick",
    "source": "made up",
    "rows": [["teacher", "99.2"], ["student alone", "98.0"]],
    "files": ["x.png"],
}


def write(path, *sources):
    """A notebook with a heading and then one cell for each source, each with an old output; text starts with a #."""
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n## Setting out", id="title")]
    for number, source in enumerate(sources, start=1):
        if source.startswith("#"):
            cells.append(nbformat.v4.new_markdown_cell(source, id=f"cell-{number}"))
        else:
            old = [nbformat.v4.new_output("stream", name="stdout", text="old")]
            cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{number}", execution_count=9, outputs=old))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def run(path, *options):
    return main(["run", str(path), "--build", str(path.parent / "the build"), *options])


def test_clean_run(tmp_path, capsys):
    path = write(
        tmp_path / "with space" / "Small.ipynb",
        "import os, sys\nprint(os.getcwd(), sys.executable)",
        "## Second part",
        "import os\nprint(os.environ['KD_PROFILE'])",
        "21 * 2",
    )
    before = path.read_bytes()
    assert run(path) == 0

    executed = path.parent / "the build" / "Small.ipynb"
    cells = code_cells(executed)
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3]
    assert [cell["id"] for cell in cells] == ["cell-1", "cell-3", "cell-4"]
    assert [cell["metadata"] for cell in cells] == [{}, {}, {}]
    assert cells[0]["outputs"][0]["text"] == [f"{ROOT} {sys.executable}\n"]
    assert cells[2]["outputs"][0]["data"]["text/plain"] == ["42"]
    metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
    assert metadata["language_info"] == {"name": "python"}  # no version of Python, which differs from run to run
    page = executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "<title>Small</title>" in page
    assert "Second part" in page
    assert sorted(file.name for file in executed.parent.iterdir()) == ["Small.html", "Small.ipynb"]
    assert path.read_bytes() == before

    said = capsys.readouterr().out
    assert 'Small: cell 1 of 3, "Setting out" | 0:' in said
    assert 'Small: cell 3 of 3, "Second part" | 0:' in said
    assert "    quick\n" in said


def test_kept_notebook_is_the_same_after_a_second_run(tmp_path):
    path = write(tmp_path / "Small.ipynb", "print('once')", "print('twice')", "3")
    assert run(path, "--keep") == 0
    first = path.read_bytes()
    assert [cell["execution_count"] for cell in code_cells(path)] == [1, 2, 3]
    assert run(path, "--keep") == 0
    assert path.read_bytes() == first


@pytest.mark.parametrize(("standin", "shown"), [(True, True), (False, False), (None, False)])
def test_private_pictures_are_kept_only_of_a_standin(tmp_path, monkeypatch, standin, shown):
    with io.BytesIO() as file:
        Image.new("L", (2, 2)).save(file, "PNG")
        picture = f"import IPython.display as d\nd.display(d.Image({file.getvalue()!r}))"
    path = write(tmp_path / "Small.ipynb", picture, picture)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["private"]
    nbformat.write(notebook, path)
    if standin is not None:  # else no summary says what the data were
        (tmp_path / "summary-small.json").write_text(json.dumps(SUMMARY | {"standin": standin}))
    monkeypatch.setattr("utils.settings.settings", replace(settings, figures=tmp_path))
    assert run(path, "--keep") == 0
    private, public = ("image/png" in cell["outputs"][0]["data"] for cell in code_cells(path))
    assert (private, public) == (shown, True)
    executed = code_cells(path.parent / "the build" / "Small.ipynb")
    assert all("image/png" in cell["outputs"][0]["data"] for cell in executed)


def test_failing_cell_ends_the_run_and_is_named(tmp_path, capsys):
    path = write(tmp_path / "Small.ipynb", "print('ran')", "## The bad part", "1 / 0", "print('not reached')")
    before = path.read_bytes()
    assert run(path, "--keep") == 1
    stopped = tmp_path / "the build" / "Small-stopped.ipynb"
    cells = code_cells(stopped)
    assert [cell["execution_count"] for cell in cells] == [1, 2, None]
    assert cells[0]["outputs"][0]["text"] == ["ran\n"]
    assert cells[2]["outputs"] == []
    assert cells[1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert sorted(file.name for file in stopped.parent.iterdir()) == ["Small-stopped.html", "Small-stopped.ipynb"]
    assert path.read_bytes() == before
    said = capsys.readouterr().out
    assert (
        'FAILED: Small, cell 2 of 3, "The bad part": ZeroDivisionError: division by zero '
        f"(what ran until there: {stopped})\n"
    ) in said
    assert "----> 1 1 / 0" in said
    assert "\x1b" not in said


def test_a_failed_run_leaves_the_last_complete_one_and_the_next_complete_one_clears_up(tmp_path):
    path, build = tmp_path / "Small.ipynb", tmp_path / "the build"
    assert run(write(path, "'complete'")) == 0
    complete = {file: file.read_bytes() for file in build.iterdir()}
    assert run(write(path, "1 / 0")) == 1
    assert {file: file.read_bytes() for file in complete} == complete
    assert len(list(build.iterdir())) == 4
    assert run(write(path, "'complete'")) == 0
    assert {file: file.read_bytes() for file in build.iterdir()} == complete


def test_dead_kernel_is_a_fault(tmp_path, capsys):
    last_words = "import os, signal\nos.write(2, b'last words')\nos.kill(os.getpid(), signal.SIGKILL)"
    path = write(tmp_path / "Small.ipynb", "1", last_words, "3")
    assert run(path) == 1
    assert code_cells(tmp_path / "the build" / "Small-stopped.ipynb")[0]["execution_count"] == 1
    said = capsys.readouterr().out
    assert "    last words\n" in said
    assert "FAILED: Small, cell 2 of 3" in said


def test_a_kernel_that_never_starts_is_a_fault_and_the_next_notebook_still_runs(tmp_path, capsys, monkeypatch):
    first, second = (write(tmp_path / f"{name}.ipynb", "1") for name in ("First", "Second"))
    before, execute = first.read_bytes(), notebooks.Run.execute

    def never(self, **options):
        if self.name == "First":
            raise RuntimeError("Kernel didn't respond in 120 seconds")
        return execute(self, **options)

    monkeypatch.setattr(notebooks.Run, "execute", never)
    assert main(["run", str(first), str(second), "--keep", "--build", str(tmp_path / "the build")]) == 1
    said = capsys.readouterr().out
    assert "FAILED: First" in said and "RuntimeError: Kernel didn't respond" in said
    assert first.read_bytes() == before
    assert not list((tmp_path / "the build").glob("First*"))  # no cell ran, so there is nothing to look at
    assert code_cells(second)[0]["execution_count"] == 1


def test_what_cpp_code_writes_is_no_output(tmp_path):
    path = write(tmp_path / "Small.ipynb", "import os\nos.write(2, b'oneDNN custom operations are on')\nprint('fine')")
    assert run(path, "--keep") == 0
    assert [output["text"] for output in code_cells(path)[0]["outputs"]] == [["fine\n"]]


def test_stderr_is_shown_but_not_stored_and_nothing_is_kept(tmp_path, capsys):
    path = write(tmp_path / "Small.ipynb", "import sys\nprint('careful', file=sys.stderr)\nprint('fine')")
    before = path.read_bytes()
    assert run(path, "--keep") == 1
    outputs = code_cells(tmp_path / "the build" / "Small.ipynb")[0]["outputs"]
    assert [output["name"] for output in outputs] == ["stdout"]
    assert path.read_bytes() == before
    assert "    careful\n" in capsys.readouterr().out


def test_progress_file_and_printed_lines_are_shown_while_the_cell_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(notebooks, "QUIET", 0.0)
    source = (
        "import os, time\n"
        "from pathlib import Path\n"
        "Path(os.environ['KD_PROGRESS']).write_text('run 3 of 30\\n')\n"
        "time.sleep(1.2)\n"
        "print('the end of the cell')"
    )
    assert run(write(tmp_path / "Small.ipynb", source, "time.sleep(1.2)")) == 0
    during, after = capsys.readouterr().out.split("    the end of the cell\n")
    assert "left | run 3 of 30\n" in during
    assert "run 3 of 30" not in after
    outputs = code_cells(tmp_path / "the build" / "Small.ipynb")[0]["outputs"]
    assert [output["text"] for output in outputs] == [["the end of the cell\n"]]


def test_interrupt_keeps_what_ran(tmp_path):
    path = write(tmp_path / "Small.ipynb", "print('ran')", "import time\ntime.sleep(60)", "3")
    other = write(tmp_path / "Other.ipynb", "1")
    before = [path.read_bytes(), other.read_bytes()]
    command = [sys.executable, "-m", "utils.notebooks", "run", str(path), str(other), "--build", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "cell 2 of 3" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 1
    stopped = tmp_path / "Small-stopped.ipynb"
    assert f'FAILED: Small, cell 2 of 3, "Setting out": stopped (what ran until there: {stopped})' in said
    assert [cell["execution_count"] for cell in code_cells(stopped)] == [1, 2, None]
    assert [path.read_bytes(), other.read_bytes()] == before  # nor is the next one begun


# Before the kernel's process is there, and, twice, after.
@pytest.mark.parametrize(("step", "times"), [("format_kernel_cmd", 1), ("client", 2)])
def test_interrupt_while_a_kernel_starts_ends_the_run(tmp_path, capsys, monkeypatch, step, times):
    first, second = (write(tmp_path / f"{name}.ipynb", "1") for name in ("First", "Second"))
    before = getattr(notebooks.ThisInterpreter, step)

    def interrupted(self, *arguments, **options):
        loop = asyncio.get_running_loop()
        for _ in range(times):
            loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
        return before(self, *arguments, **options)

    monkeypatch.setattr(notebooks.ThisInterpreter, step, interrupted)
    assert main(["run", str(first), str(second), "--build", str(tmp_path / "the build")]) == 1
    said = capsys.readouterr().out
    assert "FAILED: First, before its first cell: stopped" in said
    assert "cell 1 of 1" not in said and "Second" not in said
    assert not list((tmp_path / "the build").iterdir())


def test_a_cell_that_catches_the_interrupt_is_stopped_all_the_same(tmp_path, capsys):
    source = (
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    pass"
    )
    assert run(write(tmp_path / "Small.ipynb", source)) == 1
    assert 'FAILED: Small, cell 1 of 1, "Setting out": stopped' in capsys.readouterr().out


def test_results_table(tmp_path, capsys, monkeypatch):
    old = tmp_path / "summary-old.json"
    old.write_text(json.dumps({**SUMMARY, "title": "Task 8"}), encoding="utf-8")
    os.utime(old, (0, 0))
    source = f"from pathlib import Path\nPath({str(tmp_path / 'summary-9.json')!r}).write_text({json.dumps(SUMMARY)!r})"
    monkeypatch.setattr("utils.settings.settings", replace(settings, figures=tmp_path))
    assert run(write(tmp_path / "Small.ipynb", source)) == 0
    said = capsys.readouterr().out
    rows = "  teacher        99.2\n  student alone  98.0\n"
    assert f"Task 9 | quick profile | made up\n{rows}  {tmp_path / 'x.png'}\n" in said
    assert "Task 8" not in said


def test_large_pictures_are_stored_light_and_keep_their_size_and_look():
    colours = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    heavy = Image.fromarray(np.kron(colours, np.ones((12, 12, 1))).astype(np.uint8)).filter(ImageFilter.BoxBlur(5))

    def output_of(picture):
        with io.BytesIO() as file:
            picture.save(file, "PNG")
            return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("x")])
    notebook.cells[0].outputs = [output_of(heavy), output_of(heavy.crop((0, 0, 9, 9)))]
    before = [output.data["image/png"] for output in notebook.cells[0].outputs]
    notebooks.lighten(notebook)
    after = [output.data["image/png"] for output in notebook.cells[0].outputs]
    assert len(before[0]) > notebooks.LIGHT and len(after[0]) < len(before[0]) / 2 and after[1] == before[1]
    light = Image.open(io.BytesIO(base64.b64decode(after[0])))
    assert light.size == heavy.size
    assert np.abs(np.asarray(light.convert("RGB"), int) - np.asarray(heavy, int)).mean() < 12


def test_a_chart_that_is_stored_light_keeps_its_colours():
    """A chart's own colours cover few of its pixels beside the pictures in it: a palette by mass gives them away."""
    chart = np.random.default_rng(0).integers(0, 256, (360, 480, 3)).astype(np.uint8)
    chart[..., :2] = np.maximum(chart[..., :2], 120)  # tissue, say
    lines = {(0, 114, 178): slice(10, 12), (230, 159, 0): slice(20, 22)}
    for colour, where in lines.items():
        chart[where] = colour
    with io.BytesIO() as file:
        Image.fromarray(chart).save(file, "PNG")
        output = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.cells[0].outputs = [output]
    notebooks.lighten(notebook)
    light = Image.open(io.BytesIO(base64.b64decode(notebook.cells[0].outputs[0].data["image/png"])))
    assert light.mode == "P"
    for colour, where in lines.items():
        assert np.abs(np.asarray(light.convert("RGB"), int)[where] - colour).max() <= 16


def test_missing_notebook(tmp_path, capsys):
    assert main(["run", str(tmp_path / "None.ipynb")]) == 2
    assert "None.ipynb" in capsys.readouterr().out


def test_notebooks_of_one_name_are_refused(tmp_path, capsys):
    paths = [write(tmp_path / folder / "Small.ipynb", "1") for folder in ("a", "b")]
    build = tmp_path / "the build"
    assert main(["run", *map(str, paths), "--build", str(build)]) == 2
    said = capsys.readouterr().out
    assert f"{paths[0]} and {paths[1]} would both become Small.ipynb" in said and "--build" in said
    assert not build.exists()


@pytest.mark.parametrize("place", ["a file", "a file/build"])
def test_a_build_folder_that_cannot_be_is_refused_before_anything_runs(tmp_path, capsys, place):
    (tmp_path / "a file").write_text("precious")
    path = write(tmp_path / "Small.ipynb", "1")
    assert main(["run", str(path), "--build", str(tmp_path / place)]) == 2
    said = capsys.readouterr().out
    assert f"The results cannot be written to {tmp_path / place}: " in said and "--build must name a folder" in said
    assert "cell 1" not in said
    assert (tmp_path / "a file").read_text() == "precious"


def test_a_disk_that_is_full_at_the_end_costs_one_file_only(tmp_path, capsys, monkeypatch):
    first, second = (write(tmp_path / f"{name}.ipynb", "1") for name in ("First", "Second"))
    before, write_file = second.read_bytes(), notebooks.write

    def full(path, text):
        if path in (tmp_path / "the build" / "First.ipynb", second):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_file(path, text)

    monkeypatch.setattr(notebooks, "write", full)
    (tmp_path / "summary-9.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    monkeypatch.setattr("utils.settings.settings", replace(settings, figures=tmp_path))
    assert main(["run", str(first), str(second), "--keep", "--build", str(tmp_path / "the build")]) == 1
    said = capsys.readouterr().out
    assert "FAILED: What was executed of First.ipynb could not be saved: [Errno 28] No space left on device" in said
    assert "FAILED: Second.ipynb, as executed, could not be saved: [Errno 28] No space left on device" in said
    assert "Task 9 | quick profile" in said  # the table of results
    assert code_cells(first)[0]["execution_count"] == 1  # kept: what could be written was
    assert (tmp_path / "the build" / "Second.html").is_file() and second.read_bytes() == before


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"nbformat": 4, "nbformat_minor": 5, "cells": [{}]}'])
def test_what_is_no_notebook_is_said_in_words(tmp_path, capsys, text):
    path = tmp_path / "Bad.ipynb"
    path.write_text(text)
    assert run(path) == 1
    assert f"FAILED: {path} cannot be read as a notebook: " in capsys.readouterr().out


def test_the_others_run_although_one_is_no_notebook(tmp_path, capsys):
    (tmp_path / "Bad.ipynb").write_text("{}")
    path = write(tmp_path / "Small.ipynb", "1")
    assert main(["run", str(tmp_path / "Bad.ipynb"), str(path), "--keep", "--build", str(tmp_path / "the build")]) == 1
    assert "cannot be read as a notebook" in capsys.readouterr().out.partition("Small.ipynb,")[0]  # before the hours
    assert code_cells(path)[0]["execution_count"] == 1


def test_wrong_profile_is_said_in_words(tmp_path):
    command = [sys.executable, "-m", "utils.notebooks", "run", str(write(tmp_path / "Small.ipynb", "1"))]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "KD_PROFILE": "fast"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert "KD_PROFILE is 'fast'" in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("keep", "kept"), [("", False), ("0", False), ("1", True), ("yes", None), ("1 0", None)])
def test_keep_of_make_is_understood_or_refused(keep, kept):
    command = ["make", "--no-print-directory", "--dry-run", "full", f"KEEP={keep}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if kept is None:
        assert (done.returncode, done.stdout) == (2, "")
        assert f'KEEP is "{keep}"; it must be 1' in done.stderr and "make full KEEP=1" in done.stderr
    else:
        assert done.returncode == 0
        assert ("utils.notebooks run --keep" in done.stdout) == kept


@pytest.mark.parametrize(
    ("planned", "finished", "elapsed", "in_cell", "left"),
    [
        ([10, 20, 30], 0, 0, 0, 60),  # before anything is known: the plan
        ([10, 20, 30], 1, 10, 0, 50),  # on plan
        ([10, 20, 30], 1, 15, 5, 45),  # on plan, 5 s into the second cell
        ([30, 20, 30], 1, 90, 0, 100),  # the first took three times as long: pace (30 + 90) / (30 + 30) = 2
        ([10, 20, 30], 1, 60, 50, 30),  # the second is over its time: the third is still to come
    ],
)
def test_time_left(planned, finished, elapsed, in_cell, left):
    assert time_left(planned, finished, elapsed, in_cell) == pytest.approx(left)


def test_clock():
    assert [clock(seconds) for seconds in (0, 65.4, 3725)] == ["0:00", "1:05", "1:02:05"]


def test_heading_is_the_nearest_above(tmp_path):
    cells = nbformat.read(
        write(tmp_path / "a.ipynb", "1", "no heading", "## B\n\ntext\n\n### C", "2"), as_version=4
    ).cells
    assert heading(cells, 1) == '"Setting out"'
    assert heading(cells, 4) == '"C"'
    assert heading(cells, 0) == "before any heading"
