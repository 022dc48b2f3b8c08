"""How long models take, measured against each other in one run.

All models run as LiteRT files, in one runtime: its interpreter takes the number of threads, where TensorFlow fixes it
for the whole process. Timed is what the interpreter does: images in, computation, logits out.
"""

import os
import time

import numpy as np
import pandas as pd

from utils.predict import LiteRT

SAMPLE = 0.02  # seconds that one timing should last at least, so that the clock and the caches don't decide
MOST_CALLS = 200


def measure(
    models: dict[str, bytes], *, batch_sizes=(1, 256), threads=(1, "all"), rounds: int = 15, seed: int = 0
) -> list[dict]:
    """Median and quartiles of the milliseconds for one batch, for each model, batch size and number of threads.

    In each round every model is timed once, in an order drawn anew, so that a slow moment of the machine falls on all.

    Args:
        models: {name: content of a .tflite file}, from `utils.export.to_litert`.
        batch_sizes: each at least 1.
        threads: numbers of at least 1, or "all" cores.
        rounds: at least 3.
        seed: of the order and of the images, which are noise.

    Returns:
        Rows with "model", "batch", "threads", "rounds" and, in ms for one batch, "median", "low", "high" (quartiles).
    """
    if rounds < 3 or not models:
        raise ValueError(f"rounds is {rounds} and models {list(models)}; a spread needs 3 rounds, of a model or more.")
    rng = np.random.default_rng(seed)
    rows = []
    for batch in batch_sizes:
        # On a machine of one core, "all" is one thread too.
        for number in dict.fromkeys(os.cpu_count() if wanted == "all" else wanted for wanted in threads):
            networks = {name: LiteRT(content, number) for name, content in models.items()}
            for name, milliseconds in _interleaved(networks, batch, rounds, rng).items():
                low, median, high = np.percentile(milliseconds, (25, 50, 75))
                quartiles = {"median": median, "low": low, "high": high}
                rows.append({"model": name, "batch": batch, "threads": number, "rounds": rounds, **quartiles})
    return rows


def table(rows: list[dict], models: dict[str, bytes]) -> pd.DataFrame:
    """The rows of `measure` for reading: for each model "median (quartiles)" in ms, and the size of its file."""
    timed = pd.DataFrame(rows)
    timed["ms"] = [in_words(row) for row in rows]
    shown = timed.pivot(index="model", columns=["batch", "threads"], values="ms")
    shown["file, MB", ""] = [f"{len(models[name]) / 1e6:.2f}" for name in shown.index]
    return shown.rename_axis("ms for a batch, median and quartiles")


def in_words(timed: dict) -> str:
    """ "median (low to high)" in ms, with as many digits as a time of that size can be read to."""
    form = ".3f" if timed["median"] < 0.1 else ".2f" if timed["median"] < 100 else ",.0f"
    return f"{timed['median']:{form}} ({timed['low']:{form}} to {timed['high']:{form}})"


def _interleaved(networks: dict[str, LiteRT], batch: int, rounds: int, rng) -> dict[str, list[float]]:
    images = {name: net.encode(rng.random((batch, *net.shape), np.float32)) for name, net in networks.items()}
    calls, found = {}, {name: [] for name in networks}
    for name, network in networks.items():
        network.run(images[name])  # the first call makes room for the batch
        calls[name] = int(np.clip(SAMPLE / _seconds(network, images[name], 1), 1, MOST_CALLS))
    for _ in range(rounds):
        for name in rng.permutation(list(networks)):
            found[name].append(1000 * _seconds(networks[name], images[name], calls[name]))
    return found


def _seconds(network: LiteRT, images: np.ndarray, calls: int) -> float:
    """Seconds of one call, as the mean of several."""
    began = time.perf_counter()
    for _ in range(calls):
        network.run(images)
    return (time.perf_counter() - began) / calls
