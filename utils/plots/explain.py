"""The figures on explanations: maps side by side, and what they are worth."""

import matplotlib.pyplot as plt
import numpy as np
from skimage.segmentation import find_boundaries

from utils.plots.base import BLUE, DISTILLED, GREEN, ORANGE, SCRATCH, SKY, TEACHER, YELLOW, frame

LEAST = 0.05
DIVERGING = "PuOr_r"  # orange for, purple against, white for nothing: told apart by the colour blind


def explanations(numbers, text):
    """Each row an image and the models' maps of one class, side by side on one colour scale around 0.

    Rows have scales of their own, since weights are small where no change of the image can lift a class; but none
    narrower than LEAST, so that noise does not look like evidence.

    numbers: "rows", as `utils.explain.figure_row` makes them, and "unit", what the colours measure.
    """
    rows = numbers["rows"]
    columns = 1 + max(len(row["maps"]) for row in rows)
    figure, axes = frame(len(rows), columns, 2.15 * columns + 1.4, 2.3 * len(rows) + 0.3, text)
    for line, row in zip(axes, rows, strict=True):
        image, segments = np.asarray(row["image"]) / 255, np.asarray(row["segments"])
        line[0].imshow(image, cmap="gray_r", vmin=0, vmax=1)
        line[0].set_ylabel(row["title"])
        grey = image.mean(axis=-1)
        limit = max(LEAST, *(np.abs(found["weights"]).max() for found in row["maps"]))
        borders = np.ma.masked_equal(find_boundaries(segments, mode="inner"), 0)
        for ax, found in zip(line[1:], row["maps"], strict=False):
            shown = ax.imshow(np.asarray(found["weights"])[segments], cmap=DIVERGING, vmin=-limit, vmax=limit)
            if len(grey) < 64:  # the digit's outline; in a larger picture the segments' borders say more
                ax.contour(grey, levels=[0.4], colors="0.25", linewidths=0.8)
            else:
                ax.imshow(borders, cmap="gray_r", vmin=0, vmax=1, alpha=0.35, interpolation="nearest")
            ax.set_title(f"{found['name']}\n{found['title']}", fontsize=9)
        for ax in line[1 + len(row["maps"]) :]:
            ax.set_visible(False)
        figure.colorbar(shown, ax=line, shrink=0.8)
    figure.suptitle(f"colours: {numbers['unit']}", fontsize=9)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return figure


def explanation_scores(numbers, text):
    """Agreement with the teacher, and deletion and insertion curves of each model against baselines.

    numbers: "agreement", panels {"title", "chance" or None, "rows": [{"name", "mean", "low", "high"}]}, at most two;
    "curves", {model: {"deletion" | "insertion": [{"name", "values": [points], "area"}]}}, the mean over images.
    """
    models = list(numbers["curves"])
    figure = plt.figure(figsize=(3.6 + 3 * len(models), 8.4), layout="constrained")
    figure.supxlabel(text, fontsize=8, color="0.35")
    grid = figure.add_gridspec(2, 1 + len(models), width_ratios=[1.3] + [1] * len(models))
    for i, panel in enumerate(numbers["agreement"]):
        ax = figure.add_subplot(grid[i, 0])
        for y, row in enumerate(reversed(panel["rows"])):
            without = "scratch" in row["name"] or "without" in row["name"]
            colour = SCRATCH if without else DISTILLED if "KD" in row["name"] else TEACHER
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8)
            ax.plot(row["mean"], y, "o", color=colour, ms=6)
        if panel["chance"] is not None:
            ax.axvline(panel["chance"], color="0.5", ls=":")
            ax.text(panel["chance"], len(panel["rows"]) - 0.45, "chance", ha="center", fontsize=8, color="0.4")
        ax.set_yticks(range(len(panel["rows"])), [row["name"] for row in reversed(panel["rows"])])
        ax.set(xlabel=panel["title"], ylim=(-0.6, len(panel["rows"]) - 0.2))
        ax.margins(x=0.12)
    styles = [(BLUE, "-"), (ORANGE, "-"), (GREEN, "--"), ("0.5", ":"), (SKY, "-."), (YELLOW, "-.")]
    for i, way in enumerate(("deletion", "insertion")):
        first = None
        for j, model in enumerate(models):
            first = ax = figure.add_subplot(grid[i, 1 + j], sharey=first)
            for line, (colour, style) in zip(numbers["curves"][model][way], styles, strict=False):
                shares = np.linspace(0, 100, len(line["values"]))
                ax.plot(shares, line["values"], style, color=colour, lw=1.6, label=f"{line['name']} {line['area']:.2f}")
            ax.set(title=f"{model}: {way}", xlabel=f"share {'hidden' if i == 0 else 'shown'}, %",
                   ylim=(0, 1.02))  # fmt: skip
            if j == 0:
                ax.set_ylabel("probability of the true class")
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 1}
            ax.legend(title="area under the curve", fontsize=7, title_fontsize=7, **below)
    return figure
