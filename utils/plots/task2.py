"""The figures of Task 2.

Arms carry a key, "arm", that gives them the same colour and marker in every figure: "teacher", "distilled" (student
with KD), "scratch" (student without) or "method" (student under another method), and a "label" for the reader.
"""

import base64
import io

import numpy as np
from PIL import Image

from utils.metrics import mean_interval
from utils.plots.base import DISTILLED, GREEN, ORANGE, SCRATCH, SKY, TEACHER, YELLOW, band, frame, temperature_axis

COLOUR = {"teacher": TEACHER, "distilled": DISTILLED, "scratch": SCRATCH, "method": GREEN}
MARKER = {"teacher": "s", "distilled": "o", "scratch": "^", "method": "D"}


def picture(image) -> str:
    """A uint8 image [h, w, 3] or [h, w] as text, a PNG in base64: a tenth of what its numbers would take in JSON."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def pixels(text: str) -> np.ndarray:
    """The uint8 image that `picture` made text of."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _show(ax, text: str):
    ax.imshow(pixels(text))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _interval_bar(ax, x, found: dict, arm: str, **options):
    """Mean with its interval at x; found has "mean", "low" and "high"."""
    low, high = found["mean"] - found["low"], found["high"] - found["mean"]
    ax.errorbar(x, found["mean"], [[low], [high]], fmt=MARKER[arm], color=COLOUR[arm], capsize=3, ms=6, **options)


def _legend_above(figure, ax):
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4))


def polyp_views(numbers, text):
    """Rows of images and their views. images: [rows][columns] of `picture`; "rows" and "columns" name them."""
    images = numbers["images"]
    rows, columns = len(images), len(images[0])
    figure, axes = frame(rows, columns, 1.6 * columns + 1.0, 1.6 * rows + 0.5, text)
    for row, line in zip(axes, images, strict=True):
        for ax, image in zip(row, line, strict=True):
            _show(ax, image)
    for ax, label in zip(axes[:, 0], numbers["rows"], strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    for ax, label in zip(axes[0], numbers["columns"], strict=True):
        ax.set_title(label, fontsize=11)
    return figure


def polyp_sheet(numbers, text):
    """Drawn polyps by row, each under its votes for SSA; a row of them again with the borders of the true crypt masks.

    "rows", each with "title", "images" [columns] and "masks" [columns] of `picture`, and "votes" [columns]; the crypts
    of the rows with "outlined" are drawn around.
    """
    rows = numbers["rows"]
    columns = len(rows[0]["images"])
    figure, axes = frame(len(rows), columns, 1.75 * columns + 0.9, 1.95 * len(rows) + 0.3, text)
    for row, line in zip(rows, axes, strict=True):
        for ax, image, mask, votes in zip(line, row["images"], row["masks"], row["votes"], strict=True):
            _show(ax, image)
            if row.get("outlined"):
                ax.contour(pixels(mask), levels=[127], colors=SKY, linewidths=1)
            ax.set_title(f"{votes} of 7", fontsize=9)
        line[0].set_ylabel(row["title"])
    return figure


def training_phases(numbers, text):
    """Curves over the epochs of both phases, one panel for each quantity; a line where fine-tuning begins.

    "frozen" is the number of epochs before it; panels: "title", "unit" and lines with "arm", "label", "values"
    [seeds][epochs] and, if not drawn through, "style".
    """
    panels = numbers["panels"]
    figure, axes = frame(1, len(panels), 4.6 * len(panels), 4.0, text)
    for ax, panel in zip(axes[0], panels, strict=True):
        for line in panel["lines"]:
            epochs = np.arange(1, len(line["values"][0]) + 1)
            band(ax, epochs, line["values"], COLOUR[line["arm"]], line["label"], line.get("style", "-"))
        change = numbers["frozen"] + 0.5
        ax.axvline(change, color="0.4", lw=1, ls=":")
        for offset, side, words in ((-4, "right", "base frozen"), (4, "left", "fine-tuning")):
            ax.annotate(words, (change, 1), (offset, 2), xycoords=("data", "axes fraction"),
                        textcoords="offset points", ha=side, va="bottom", fontsize=8, color="0.3")  # fmt: skip
        ax.set(xlabel="epoch", ylabel=panel["unit"])
        ax.set_title(panel["title"], pad=16)
    _legend_above(figure, axes[0, 0])
    return figure


def roc_curves(numbers, text):
    """Mean ROC curve of each arm over seeds with its 95% band (over seeds), the diagonal and always-HP.

    "false_positive_rate" [k]; arms: "sensitivity" [seeds][k], "auc" with "mean", "low" and "high", and "points", for
    each seed the (false positive rate, sensitivity) at the threshold chosen on validation.
    """
    figure, ((ax,),) = frame(1, 1, 6.6, 6.6, text)
    for arm in numbers["arms"]:
        auc, colour = arm["auc"], COLOUR[arm["arm"]]
        label = f"{arm['label']}: AUC {auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
        band(ax, numbers["false_positive_rate"], arm["sensitivity"], colour, label, possible=(0, 1))
        ax.plot(*np.transpose(arm["points"]), MARKER[arm["arm"]], color=colour, mec="white", ms=8)
    ax.plot([], [], "o", color="0.5", ms=7, label="one run at its threshold")
    ax.plot([0, 1], [0, 1], ":", color="0.4", lw=1.2, label="chance: AUC 0.5")
    ax.plot(0, 0, "X", color="0.3", ms=11, clip_on=False, zorder=5, label="always HP")
    ax.set(
        xlabel="HP called SSA (1 − specificity)",
        ylabel="SSA found (sensitivity)",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    ax.legend(loc="lower right", fontsize=9, frameon=True, framealpha=0.9)
    return figure


def agreement_effect(numbers, text):
    """A metric of each arm, with 95% intervals, against how many of the seven annotators agreed.

    "agreement" and "images" [k] name the strata, hardest first; arms: "strata" [k] with "mean", "low" and "high".
    "unit" names the metric, and "chance", if given, is what no knowledge gives.
    """
    figure, ((ax,),) = frame(1, 1, 6.8, 4.4, text)
    arms = numbers["arms"]
    for shift, arm in zip(0.12 * (np.arange(len(arms)) - (len(arms) - 1) / 2), arms, strict=True):
        x = np.arange(len(arm["strata"])) + shift
        ax.plot(x, [s["mean"] for s in arm["strata"]], color=COLOUR[arm["arm"]], lw=1, alpha=0.5)
        for k, (position, stratum) in enumerate(zip(x, arm["strata"], strict=True)):
            _interval_bar(ax, position, stratum, arm["arm"], label=None if k else arm["label"])
    if "chance" in numbers:
        ax.axhline(numbers["chance"], color="0.4", ls=":", lw=1.2)
        ax.annotate("chance", (1, numbers["chance"]), (0, 3), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", fontsize=8, color="0.3")  # fmt: skip
    ticks = [f"{k}\n{n} images" for k, n in zip(numbers["agreement"], numbers["images"], strict=True)]
    ax.set_xticks(range(len(ticks)), ticks)
    ax.set(xlabel="annotators who agreed", ylabel=numbers["unit"])
    ax.grid(False, axis="x")
    _legend_above(figure, ax)
    return figure


def transfer_grid(numbers, text):
    """A metric of each arm from random and from pre-trained weights: seeds as dots, mean and 95% interval.

    "starts" names the two starts; arms: "cells", one for each start, with "seeds" [S], "mean", "low" and "high".
    """
    figure, ((ax,),) = frame(1, 1, 6.8, 4.4, text)
    arms = numbers["arms"]
    for shift, arm in zip(0.16 * (np.arange(len(arms)) - (len(arms) - 1) / 2), arms, strict=True):
        x, colour = np.arange(len(arm["cells"])) + shift, COLOUR[arm["arm"]]
        ax.plot(x, [cell["mean"] for cell in arm["cells"]], color=colour, lw=1, alpha=0.5)
        for k, (position, cell) in enumerate(zip(x, arm["cells"], strict=True)):
            _interval_bar(ax, position, cell, arm["arm"], label=None if k else arm["label"])
            ax.plot(np.full(len(cell["seeds"]), position + 0.045), cell["seeds"], ".", color=colour, alpha=0.6, ms=6)
    ax.set_xticks(range(len(numbers["starts"])), numbers["starts"])
    ax.set(xlabel="weights at the start", ylabel=numbers["unit"], xlim=(-0.5, len(numbers["starts"]) - 0.5))
    ax.grid(False, axis="x")
    _legend_above(figure, ax)
    return figure


def temperature_panels(numbers, text):
    """Metrics of the distilled student against T, dots for the seeds; beside them teacher and student from scratch,
    which have no T: their means as lines, and their intervals apart, so that they cannot fall on each other.

    "temperatures" [k]; panels: "unit", "distilled" [seeds][k], "teacher" and "scratch" [seeds]. The band and the bars
    are 95% intervals over seeds.
    """
    t, panels = numbers["temperatures"], numbers["panels"]
    figure, axes = frame(1, len(panels), 4.8 * len(panels), 4.2, text)
    for ax, panel in zip(axes[0], panels, strict=True):
        band(ax, t, panel["distilled"], DISTILLED, "student with KD", possible=(0, 1))
        for seed in panel["distilled"]:
            ax.plot(t, seed, ".", color=DISTILLED, alpha=0.5, ms=5)
        for place, (name, label) in enumerate((("teacher", "teacher"), ("scratch", "student without KD"))):
            found = mean_interval(panel[name])
            ax.axhline(found["mean"], color=COLOUR[name], ls="--", lw=1)
            _interval_bar(ax, t[-1] * (1.5 + 0.7 * place), found, name, label=label)
        temperature_axis(ax, t)
        ax.set(xlabel="temperature T (logarithmic)", ylabel=panel["unit"], xlim=(t[0] / 1.2, t[-1] * 3))
    _legend_above(figure, axes[0, 0])
    return figure


def confident_mistakes(numbers, text):
    """The images that the student got wrong with most confidence: the label, its votes, and each network's P(SSA).

    images: "pixels" (a `picture`), "label", "votes" for SSA of seven, and "probabilities" {arm: P(SSA)}; "labels"
    names the arms. A tick on each network's row is its own threshold, "thresholds" {arm: P(SSA)}.
    """
    images, columns = numbers["images"], 4
    rows = -(-len(images) // columns)
    figure, axes = frame(2 * rows, columns, 2.7 * columns, 3.6 * rows + 0.3, text, height_ratios=[4, 1] * rows)
    names = numbers["labels"]
    for ax in axes.flat:
        ax.set_visible(False)
    for k, image in enumerate(images):
        above, below = axes[2 * (k // columns), k % columns], axes[2 * (k // columns) + 1, k % columns]
        above.set_visible(True)
        below.set_visible(True)
        _show(above, image["pixels"])
        above.set_title(f"{image['label']}: {image['votes']} of 7 say SSA", fontsize=10)
        for y, arm in enumerate(reversed(names)):
            below.plot(image["probabilities"][arm], y, MARKER[arm], color=COLOUR[arm], ms=7, clip_on=False)
            below.plot([numbers["thresholds"][arm]] * 2, [y - 0.4, y + 0.4], color=COLOUR[arm], lw=1.2)
        below.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), xlabel="P(SSA)")
        below.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        below.set_yticks(range(len(names)), [names[arm] for arm in reversed(names)] if k % columns == 0 else [])
        below.grid(True, axis="x")
    return figure


def cost_by_kind(numbers, text):
    """What networks cost by kind of layer, stacked, a panel for each quantity.

    "networks" {name: {kind of layer, as Keras calls it: {quantity: number}}}, "quantities" {quantity: title of axis}.
    """
    parts = {"Conv2D": ("convolutions", SKY), "DepthwiseConv2D": ("depthwise convolutions", ORANGE),
             "BatchNormalization": ("batch normalisation", YELLOW)}  # fmt: skip
    figure, axes = frame(1, len(numbers["quantities"]), 4.2 * len(numbers["quantities"]), 3.9, text)
    for ax, (quantity, title) in zip(axes[0], numbers["quantities"].items(), strict=True):
        totals = [sum(of[quantity] for of in kinds.values()) for kinds in numbers["networks"].values()]
        drawn = np.zeros(len(totals))
        for kind, (label, colour) in parts.items():
            values = [kinds.get(kind, {}).get(quantity, 0) for kinds in numbers["networks"].values()]
            ax.bar(range(len(values)), values, 0.6, drawn, color=colour, label=label)
            drawn += values
        ax.bar(range(len(totals)), totals - drawn, 0.6, drawn, color="0.7", label="all other layers")
        for x, total in enumerate(totals):
            ax.text(x, total + 0.015 * max(totals), f"{total / 1e6:,.4g} M", ha="center", va="bottom", weight="bold")
        ax.set_xticks(range(len(totals)), list(numbers["networks"]))
        ax.set(xlabel="network", ylabel=title, ylim=(0, 1.1 * max(totals)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
        ax.grid(False, axis="x")
    _legend_above(figure, axes[0, 0])
    return figure
