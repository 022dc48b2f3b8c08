"""Every figure, drawn from numbers that lie as JSON beside it.

A figure is a function (numbers, caption) -> matplotlib Figure. `publish` writes the numbers with their
origin, draws the figure from them and saves it as a PNG of 150 dpi.
"""

from datetime import UTC, datetime
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from utils import results
from utils.metrics import mean_interval
from utils.settings import settings

# Okabe and Ito's palette, told apart by all common forms of colour blindness.
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
TEACHER, DISTILLED, SCRATCH = "#000000", BLUE, ORANGE
# When this process began to work: results with one stamp come from one run of a notebook.
RUN = datetime.now(UTC).isoformat(timespec="seconds")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


def store(name: str, numbers: dict, origin: dict, folder: Path | None = None) -> dict:
    """Write what a figure or a table shows to NAME.json, with the run, profile and versions it came from; that content.

    Args:
        origin: "task", "source" of the data, "seeds", and "note", a few words on what is shown.
    """
    path = Path(folder or settings.figures) / f"{name}.json"
    content = {"figure": name, "run": RUN, "profile": settings.profile, **origin, "versions": results.versions()}
    return results.read_json(results.write_json(path, content | {"numbers": numbers}))


def publish(name: str, draw, numbers: dict, origin: dict, folder: Path | None = None):
    """Store the numbers, draw NAME.png from what was written, and return the figure; its caption says their origin."""
    folder = Path(folder or settings.figures)
    written = store(name, numbers, origin | {"drawn_by": draw.__name__}, folder)
    return save(draw, written, folder / f"{name}.png")


def save(draw, content: dict, path: Path):
    """Draw what was stored, in the format that the path's ending names; the figure."""
    with plt.rc_context(STYLE):
        figure = draw(content["numbers"], caption(content))
        with results.whole_file(path, path.suffix) as temporary:
            figure.savefig(temporary, bbox_inches="tight")
    plt.close(figure)  # or the notebook would show it twice: as the open figure and as the cell's value
    return figure


def caption(content: dict) -> str:
    """Source, profile, seeds and note of a figure on one line."""
    seeds = content.get("seeds")
    parts = [content["source"], f"{content['profile']} profile"]
    if seeds:
        parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}")
    return " · ".join([*parts, *([content["note"]] if content.get("note") else [])])


def frame(rows, columns, width, height, text, **options):
    """A figure with its axes and the caption under them."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)
    figure.supxlabel(text, fontsize=8, color="0.35")
    return figure, axes


def band(ax, x, lines, colour, label, style="-", possible=(-np.inf, np.inf)):
    """Mean over seeds with its 95% interval as a band, as far as such values are possible: an interval from few seeds
    may reach beyond 100%. lines: [seeds, points]."""
    lines = np.asarray(lines, float)
    mean = lines.mean(axis=0)
    ax.plot(x, mean, style, color=colour, label=label, lw=1.8)
    if len(lines) > 1:
        intervals = [mean_interval(column) for column in lines.T]
        low, high = (np.clip([i[end] for i in intervals], *possible) for end in ("low", "high"))
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def mean_and_seeds(ax, found, y, colour, face=None, label=None):
    """A row of a comparison: a tick for each seed, the mean and its 95% interval ("seeds", "mean", "low", "high")."""
    ax.plot(found["seeds"], np.full(len(found["seeds"]), y), "|", color=colour, alpha=0.5, ms=7)
    ax.plot([found["low"], found["high"]], [y, y], color=colour, lw=1.5)
    ax.plot(found["mean"], y, "o", color=colour, mfc=face or colour, ms=6, label=label)


def temperature_axis(ax, temperatures):
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(temperatures))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
