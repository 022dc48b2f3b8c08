"""What a process says of itself: a progress bar that leaves no trace in stored outputs, and its peak memory."""

import os
import sys
import time
from pathlib import Path

import keras


def say(line: str) -> None:
    """Show a line of progress: to the file KD_PROGRESS names (the notebook runner reads it), else to a terminal."""
    target = os.environ.get("KD_PROGRESS")
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    elif sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None and not os.environ.get("KD_PROGRESS")


def peak_memory() -> float:
    """The most memory that this process has held so far, in GiB; NaN where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class ProgressBar(keras.callbacks.Callback):
    """One line for each epoch: bar, loss, accuracy, images a second and the time left.

    In a notebook the line replaces itself and is taken away at the end of the run.
    """

    def __init__(self, title: str, images: int):
        super().__init__()
        self.title, self.images = title, images
        self.display = None

    def on_train_begin(self, logs=None):
        self.began = time.perf_counter()
        self.epochs = self.params["epochs"]
        self._show(f"{self.title}: starts")

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        seconds = time.perf_counter() - self.began
        bar = "█" * (20 * done // self.epochs)
        figures = " ".join(
            f"{name} {value:.4f}" for name, value in (logs or {}).items() if "loss" in name or "acc" in name
        )
        rate, left = done * self.images / seconds, seconds / done * (self.epochs - done)
        self._show(f"{self.title}: {bar:<20} {done}/{self.epochs} {figures} {rate:,.0f} images/s, {left:.0f} s left")

    def on_train_end(self, logs=None):
        if self.display is not None:
            self.display.update({"text/plain": ""}, raw=True)

    def _show(self, line: str) -> None:
        if not _in_notebook():
            say(line)
        elif self.display is None:
            from IPython.display import display

            self.display = display({"text/plain": line}, raw=True, display_id=True)
        else:
            self.display.update({"text/plain": line}, raw=True)
