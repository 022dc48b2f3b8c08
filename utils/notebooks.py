"""Run the notebooks from top to bottom, each in a fresh kernel, with progress on the screen.

    python -m utils.notebooks run [NOTEBOOK ...] [--build FOLDER] [--keep]

Each executed notebook and an HTML copy of it go to build/, in place of those of the last complete run, whatever its
profile. A cell that fails ends its notebook, and Ctrl-C ends the run: what ran until there is kept beside them, as
build/NAME-stopped.ipynb, until NAME runs to its end, and the exit code is 1. A cell that takes long may say in its
metadata how long, so that the time left is a fair guess from the start: "seconds": {"quick": 20, "full": 600}; cells
without it count as one.
"""

import argparse
import asyncio
import base64
import copy
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import zmq
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from PIL import Image

from utils.results import read_json, whole_file

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("Task1.ipynb", "Task2.ipynb")
LIGHT = 60_000  # bytes of a picture that a notebook takes as it is
COLOURS = 256

# The first code cell of every notebook, word for word (tests compare them): a notebook cannot import its text
# from the package, because finding the package is what it does.
FIRST_CELL = """\
# Go to the project's folder, wherever this notebook was opened, and add what Colab lacks.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def find_project():
    for pattern in (".", "*", "*/*", "drive/MyDrive/*", "drive/MyDrive/*/*", "drive/MyDrive/*/*/*"):
        places = [Path.cwd(), *Path.cwd().parents] if pattern == "." else Path("/content").glob(pattern)
        for place in places:  # the first that fits: to list all of a large Drive takes minutes
            if (place / "utils/settings.py").is_file():
                return place


if (in_colab := "google.colab" in sys.modules) and find_project() is None:
    importlib.import_module("google.colab.drive").mount("/content/drive")
if (project := find_project()) is None:
    raise FileNotFoundError("No project folder here: put it, unzipped, into /content or Drive, and run this again.")
os.chdir(project)
sys.path.insert(0, str(project))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes differ from machine to machine
if in_colab and (missing := [name for name in ("lime", "keras_flops") if not importlib.util.find_spec(name)]):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)"""

TRUST = 30.0  # seconds of running after which the measured pace outweighs the planned one
QUIET = 10.0  # seconds between two status lines where they cannot replace each other


class Screen:
    """Lines that stay, and one status line: replaced in place on a terminal, now and then a line elsewhere."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.lock = threading.Lock()
        self.written = time.monotonic()

    def line(self, text: str = "") -> None:
        with self.lock:
            self._write(text + "\n")

    def status(self, text: str) -> None:
        with self.lock:
            if self.live:
                self._write(text[: shutil.get_terminal_size().columns - 1])
            elif time.monotonic() - self.written >= QUIET:
                self._write(text + "\n")

    def _write(self, text: str) -> None:
        print(("\r\x1b[K" if self.live else "") + text, end="", flush=True)
        self.written = time.monotonic()


class ThisInterpreter(AsyncKernelManager):
    """Starts the kernel with the running Python, whatever kernels are registered on the machine."""

    def __init__(self, **options):
        super().__init__(transport_encryption="auto" if zmq.has("curve") else "disabled", **options)

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook."""

    fault: str = ""  # what went wrong, and where
    warned: int = 0  # cells that wrote to stderr
    stopped: bool = False  # by Ctrl-C or SIGTERM
    ran: bool = True  # at least one cell


class Run(NotebookClient):
    """The execution of one notebook, which says on the screen where it is."""

    def __init__(self, notebook, name: str, screen: Screen, profile: str, progress: Path):
        super().__init__(
            notebook,
            kernel_manager_class=ThisInterpreter,
            on_cell_execute=self._cell_starts,
            timeout=None,
            startup_timeout=120,
            iopub_timeout=60,  # a busy machine may be late with a big output; the default of 4 s would drop it
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            force_raise_errors=True,
            # What C++ code writes (TensorFlow greets each machine differently) is no output of a cell.
            extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        )
        self.name, self.screen, self.progress = name, screen, progress
        self.code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        self.planned = [float(cell.metadata.get("seconds", {}).get(profile, 1)) for cell in self.code]
        self.seconds: list[float] = []  # of each cell that has started; the last one may still run
        self.place = "before its first cell"
        self.stopped = False
        self.began = self.cell_began = time.monotonic()

    async def async_start_new_kernel(self, **options) -> None:
        """Ctrl-C interrupts the running cell, so that what ran before it is kept; nbclient's own handlers lose it.

        nbclient sets its handlers just before it calls this; what takes their place must be there while the kernel
        starts, too.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        await super().async_start_new_kernel(**options)

    def _stop(self) -> None:
        kernel, again, self.stopped = self.km, self.stopped, True
        if not self.seconds or kernel is None or not kernel.has_kernel:
            return  # the kernel still starts, and _cell_starts ends it, or it is already gone
        self.stopping = asyncio.ensure_future(kernel.shutdown_kernel(now=True) if again else kernel.interrupt_kernel())

    def _cell_starts(self, cell, cell_index) -> None:
        self._cell_ends()
        if self.stopped:  # while the kernel started, or in a cell that took no notice
            raise RuntimeError("stopped")
        self.seconds.append(0.0)
        self.place = f"cell {len(self.seconds)} of {len(self.code)}, {heading(self.nb.cells, cell_index)}"
        self.screen.line(self._where())

    def _cell_ends(self) -> None:
        now = time.monotonic()
        if self.seconds:
            self.seconds[-1] = now - self.cell_began
        self.cell_began = now

    def _where(self) -> str:
        return f"{self.name}: {self.place} | {self._clocks()}"

    def _clocks(self) -> str:
        now = time.monotonic()
        left = time_left(self.planned, max(len(self.seconds) - 1, 0), now - self.began, now - self.cell_began)
        return f"{clock(now - self.began)}, about {clock(left)} left"

    def output(self, outs, msg, display_id, cell_index):
        """nbclient's hook for each output; what a cell prints is shown as it comes."""
        if msg["msg_type"] == "stream":
            for line in msg["content"]["text"].splitlines():
                self.screen.line("    " + line)
        return super().output(outs, msg, display_id, cell_index)

    def watch(self, stop: threading.Event) -> None:
        """Keep the status line fresh: the clock, and the last line that the running cell wrote to the progress file."""
        news, news_of, read = "", "", 0
        while not stop.wait(0.5):
            if self.progress.exists():
                with self.progress.open(encoding="utf-8", errors="replace") as file:
                    file.seek(read)
                    lines = file.read().splitlines()
                    read = file.tell()
                if lines:
                    news, news_of = lines[-1], self.place
            self.screen.status(f"    {self._clocks()} | {news}" if news_of == self.place else self._where())

    def longest(self) -> str:
        """The three cells that took longest, so that one sees where the time went."""
        order = sorted(range(len(self.seconds)), key=lambda i: -self.seconds[i])[:3]
        return ", ".join(f"cell {i + 1} {self.seconds[i]:.1f} s" for i in order)


def heading(cells, index: int) -> str:
    """The nearest heading above a cell."""
    for cell in reversed(cells[:index]):
        found = re.findall(r"^#{1,6} +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        if found:
            return f'"{found[-1].strip()}"'
    return "before any heading"


def time_left(planned: list[float], finished: int, elapsed: float, in_cell: float) -> float:
    """Seconds left: the planned seconds of the cells to come, at the pace of the cells done.

    Args:
        planned: seconds for each code cell.
        finished: how many of them are done; the next one runs since `in_cell` of the `elapsed` seconds.
    """
    pace = (TRUST + elapsed - in_cell) / (TRUST + sum(planned[:finished]))
    this = sum(planned[finished : finished + 1])
    return max(pace * this - in_cell, 0.0) + pace * sum(planned[finished + 1 :])


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def write(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check(paths: list[Path], build: Path) -> None:
    """Refuse in words, before anything runs, what would be lost after hours: results without a place of their own."""
    places = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no {path}. Run this from the project's folder, or name the notebooks.")
        if path.stem in places:  # their results have the same names
            raise ValueError(
                f"{places[path.stem]} and {path} would both become {path.stem}.ipynb in the folder of results. "
                "Run them one after the other, each with a --build of its own, or rename one."
            )
        places[path.stem] = path
    try:
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=build) as file:
            file.write(bytes(2**20))  # a full disk still takes an empty file
    except OSError as error:
        raise ValueError(
            f"The results cannot be written to {build}: {error}. --build must name a folder, there or to be made, "
            "that can be written, with room on its disk. Mend that, or name another."
        ) from error


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook without outputs, counts and timings: what a clean run starts from."""
    try:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.validate(notebook, relax_add_props=True)
    except Exception as error:  # what nbformat raises for JSON that is no notebook is anything but one kind of error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} cannot be read as a notebook: {reason}. Expected is a file as Jupyter saves it (nbformat 4): "
            "open it in Jupyter and save it anew, or name another."
        ) from error
    return notebook


def execute(notebook, name: str, screen: Screen, profile: str) -> Outcome:
    """Run all cells in place, in the project's folder; the outcome says how it went."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress.txt"
        run = Run(notebook, name, screen, profile, progress)
        environment = {
            **os.environ,
            "KD_PROFILE": profile,
            "KD_PROGRESS": str(progress),
            "IPYTHONDIR": folder,  # nobody's personal start-up files
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        }
        stop = threading.Event()
        watcher = threading.Thread(target=run.watch, args=(stop,), daemon=True)
        watcher.start()
        fault, log = "", Path(folder) / "stderr.txt"
        try:
            with log.open("w", encoding="utf-8") as stderr:
                run.execute(cwd=str(ROOT), env=environment, stderr=stderr)
        except CellExecutionError as error:
            fault = f"{error.ename}: {error.evalue}"
            screen.line(error.traceback if screen.live else re.sub(r"\x1b\[[0-9;]*m", "", error.traceback))
        except DeadKernelError:
            fault = "the kernel died; a machine that is out of memory does that"
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]:
                screen.line("    " + line)
        except Exception as error:  # a kernel that never starts, say: what was executed so far is saved all the same
            fault = f"{type(error).__name__}: {error}"
        finally:
            stop.set()
            watcher.join()
        run._cell_ends()
    if run.stopped:
        fault = "stopped"  # even if all cells ran: one that catches the interrupt may have left something out
    if fault:
        return Outcome(f"{name}, {run.place}: {fault}", stopped=run.stopped, ran=bool(run.seconds))
    screen.line(f"{name}: {len(run.code)} cells in {clock(sum(run.seconds))}; longest: {run.longest()}")
    return Outcome(warned=drop_stderr(notebook))


def drop_stderr(notebook) -> int:
    """Take what cells wrote to stderr out of the notebook (the screen has shown it); how many cells did."""
    warned = 0
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        kept = [output for output in outputs if output.get("name") != "stderr"]
        if len(kept) < len(outputs):
            cell.outputs, warned = kept, warned + 1
    return warned


def lighten(notebook) -> None:
    """Stores large pictures with a palette, so that the notebook can be read on the web; figures/ has them in full."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        content = base64.b64decode(output.get("data", {}).get("image/png", ""))
        if len(content) > LIGHT:
            with Image.open(io.BytesIO(content)) as picture, io.BytesIO() as smaller:
                # The palette that keeps the colours of lines and dots, of which a chart has few pixels.
                light = picture.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
                light.save(smaller, "PNG", optimize=True)
                if smaller.tell() < len(content):
                    output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode() + "\n"


def publishable(notebook, standin: bool) -> nbformat.NotebookNode:
    """The notebook to keep: pictures of cells tagged "private" stay only where a stand-in was drawn for the data.

    MHIST's images may not be passed on, and a notebook that is kept is one that is committed.
    """
    kept = copy.deepcopy(notebook)
    private = [cell for cell in kept.cells if "private" in cell.metadata.get("tags", []) and not standin]
    for output in (output for cell in private for output in cell.outputs):
        if "image/png" in output.get("data", {}):
            output["data"] = {"text/plain": "(A picture of data that may not be passed on: build/ has it.)"}
    return kept


def save(notebook, name: str, build: Path, complete: bool) -> list[Path]:
    """Write build/<name>.ipynb and .html; the notebook names no version, so that a rerun leaves the same file.

    What is not complete goes to build/<name>-stopped instead: it may be worth a look, but not hours of earlier work.
    """
    lighten(notebook)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    build.mkdir(parents=True, exist_ok=True)
    ends = (".ipynb", ".html")
    stopped = [build / f"{name}-stopped{end}" for end in ends]
    paths = [build / f"{name}{end}" for end in ends] if complete else stopped
    write(paths[0], nbformat.writes(notebook) + "\n")
    exporter = HTMLExporter(embed_images=True)
    exporter.log.setLevel("ERROR")  # it would warn of each figure without an alternative text
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name, "path": str(ROOT)}})
    write(paths[1], page)
    if complete:
        for path in stopped:  # of an earlier run, which this one leaves behind
            path.unlink(missing_ok=True)
    return paths


@contextmanager
def reported(faults: list[str], what: str):
    """A disk that is full, or the like, costs what was to be written, not the notebooks to come and the results."""
    try:
        yield
    except OSError as error:
        faults.append(f"{what} could not be saved: {error}. Make room there, or let it be written, and run it again.")


def results(folder: Path, since: float) -> list[str]:
    """The lines of the results table: every summary-*.json that the notebooks wrote since then.

    Each holds {"title", "profile", "source", "rows": [[label, value], ...], "files": [path, ...]}.
    """
    lines = []
    for path in sorted(folder.glob("summary-*.json")):
        if path.stat().st_mtime < since:
            continue
        summary = json.loads(path.read_text(encoding="utf-8"))
        lines += ["", f"{summary['title']} | {summary['profile']} profile | {summary['source']}"]
        width = max((len(str(label)) for label, _ in summary["rows"]), default=0)
        lines += [f"  {label!s:<{width}}  {value}" for label, value in summary["rows"]]
        lines += [f"  {shown(folder / file)}" for file in summary["files"]]
    return lines


def shown(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.notebooks", description="Run the notebooks.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="execute notebooks from top to bottom")
    command.add_argument("notebooks", nargs="*", type=Path, default=[ROOT / name for name in NOTEBOOKS])
    command.add_argument("--build", type=Path, help="where the results go (build/, or that in KD_OUTPUT)")
    command.add_argument("--keep", action="store_true", help="after a clean run, replace the notebook itself too")
    options = parser.parse_args(arguments)
    try:
        from utils.settings import settings  # here, because a wrong KD_PROFILE deserves its message, not a traceback

        build = options.build or settings.cache.parent.parent
        check(options.notebooks, build)
    except ValueError as error:
        print(error)
        return 2

    screen, since, faults, files = Screen(), time.time() - 1, [], []
    notebooks = {}
    for path in options.notebooks:
        try:
            notebooks[path] = read(path)
        except ValueError as error:  # said now, before hours of the others, and once more at the end
            screen.line(str(error))
            faults.append(str(error))
    for path, notebook in notebooks.items():
        screen.line(f"{path.name}, {settings.profile} profile")
        outcome = execute(notebook, path.stem, screen, settings.profile)
        saved = []
        if outcome.ran:
            with reported(faults, f"What was executed of {path.name}"):
                saved = save(notebook, path.stem, build, complete=not outcome.fault)
        files += saved
        if outcome.warned:
            screen.line(f"{path.name}: {outcome.warned} cell(s) wrote to stderr (above); the notebook leaves it out.")
        if outcome.fault:
            faults.append(outcome.fault + (f" (what ran until there: {shown(saved[0])})" if saved else ""))
            if outcome.stopped:
                break
        elif options.keep and outcome.warned:
            faults.append(f"{path.name} was not replaced: a notebook that is kept must write nothing to stderr.")
        elif options.keep:
            with reported(faults, f"{path.name}, as executed,"):
                summary = read_json(settings.figures / f"summary-{path.stem.lower()}.json") or {}
                write(path, nbformat.writes(publishable(notebook, summary.get("standin", False))) + "\n")
                files.append(path)
    listed = ["", "Files", *(f"  {shown(path)}" for path in files)] if files else []
    for line in [*results(settings.figures, since), *listed]:
        screen.line(line)
    for fault in faults:
        screen.line(f"FAILED: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # while it loads or saves; a run that is under way handles Ctrl-C itself
        sys.exit("FAILED: stopped")
