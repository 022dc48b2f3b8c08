"""What all tests stand on: the quick profile, for unit tests and for the notebooks, which nbval runs.

Settings are read once, at import, so they are set before any test imports the package. A notebook's kernel has an
output folder of its own, made anew for each session: an earlier run's records would hide a training that is broken.
"""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ["KD_PROFILE"] = "quick"  # whatever the shell or a GPU would choose
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

LONGEST = ("Task1.ipynb", "Task2.ipynb", "test_transfer.py", "test_training.py", "test_contracts.py")
OUTPUT = Path(__file__).parent / "build" / "test"
# As in utils/notebooks.py, a progress bar and what C++ code writes are no output of a cell.
OF_NOTEBOOKS = {"KD_OUTPUT": str(OUTPUT), "KD_PROGRESS": os.devnull, "IPYTHONDIR": str(OUTPUT / "ipython")}


def pytest_sessionstart(session):
    """Once for all workers, and not where tests are only listed."""
    option = session.config.option
    if not option.collectonly and getattr(option, "nbval", False) and not hasattr(session.config, "workerinput"):
        shutil.rmtree(OUTPUT, ignore_errors=True)
        profile = OUTPUT / "ipython" / "profile_default"
        profile.mkdir(parents=True)
        (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.capture_fd_output = False\n")


def pytest_collection_modifyitems(items):
    """The longest files first, whatever the order on the command line, which pytest puts in that of the folders: or one
    worker of `make test` would have nothing to do while the other ends with the longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel in the set-up of its first cell; the kernel inherits the environment."""
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MPLBACKEND", raising=False)  # a kernel has its own: pictures in the notebook
        for name, value in OF_NOTEBOOKS.items():
            environment.setenv(name, value)
        return (yield)


@pytest.fixture
def untraced():
    """Keras's steps run as Python, since tracing one takes longer than the few that most tests train. What only a
    traced step can get wrong is tested with `traced`, or without either."""
    import tensorflow as tf  # late, as in all that is read before the settings are

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def traced(untraced):
    """Steps are traced after all, in a test whose other fixtures ask for `untraced`."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(False)


@pytest.fixture
def asked(monkeypatch):
    """In place of training: the runs that `train_and_evaluate` was asked for, each its arguments by name."""
    from utils import comparison, training

    runs = []

    def train(build_model, method, data, teacher=None, **options):
        runs.append(SimpleNamespace(model=build_model.__name__, method=method, teacher=teacher, **options))
        return runs[-1]

    for module in (training, comparison):
        monkeypatch.setattr(module, "train_and_evaluate", train)
    return runs
