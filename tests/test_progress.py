"""What a process says of itself: how far a training is, and the most memory it held."""

import builtins
import math
import sys

import numpy as np
import pytest

from utils.progress import ProgressBar, peak_memory


def test_the_peak_is_in_gib_and_grows_with_what_is_held():
    before = peak_memory()
    held = np.ones(int((before + 0.25) * 2**30), np.uint8)
    assert peak_memory() == pytest.approx(before + held.nbytes / 2**30, rel=0.6) and peak_memory() > before + 0.2


def test_macos_counts_bytes(monkeypatch):
    here = peak_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory() == pytest.approx(here / 1024, rel=0.1)


def test_a_system_that_does_not_say_gives_nan(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "resource":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert math.isnan(peak_memory())


def test_the_bar_says_how_far_a_training_is(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_PROGRESS", str(tmp_path / "progress.txt"))
    bar = ProgressBar("student, seed 3", images=100)
    bar.set_params({"epochs": 4})
    bar.on_train_begin()
    bar.on_epoch_end(0, {"loss": 0.5, "accuracy": 0.9, "learning_rate": 1e-3})
    bar.on_train_end()
    first, second = (tmp_path / "progress.txt").read_text(encoding="utf-8").splitlines()
    assert first == "student, seed 3: starts"
    assert second.startswith("student, seed 3: █████ ") and " 1/4 loss 0.5000 accuracy 0.9000 " in second
    assert second.endswith("s left")
