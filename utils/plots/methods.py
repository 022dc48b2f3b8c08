"""The figures that compare methods."""

import math

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from utils.plots.base import (
    BLUE,
    DISTILLED,
    GREEN,
    ORANGE,
    PURPLE,
    SCRATCH,
    SKY,
    TEACHER,
    YELLOW,
    frame,
    mean_and_seeds,
)

NEAR = 1.12  # costs that differ by less than this factor are about equal


def method_comparison(numbers, text):
    """Test score of each method, a tick for each seed, mean and 95% interval; one panel for each training set.

    Filled: the difference from KD is outside the noise (corrected over the methods); hollow: a tie with KD.
    numbers: "panels", and "unit" of the score if it is not test accuracy in percent; a panel's "reference" is the
    name of KD's row if that is not "kd".
    """
    panels = numbers["panels"]
    rows = max(len(panel["rows"]) for panel in panels)
    figure, axes = frame(1, len(panels), 5.2 * len(panels), 0.33 * rows + 1.3, text)
    for ax, panel in zip(axes[0], panels, strict=True):
        kd = panel.get("reference", "kd")
        for y, row in enumerate(reversed(panel["rows"])):
            colour = TEACHER if row["name"] == kd else SCRATCH if row["name"].startswith("scratch") else BLUE
            mean_and_seeds(ax, row, y, colour, face="white" if row["tie"] else None)
        ax.set_yticks(range(len(panel["rows"])), [row["name"] for row in reversed(panel["rows"])])
        reference = next(row["mean"] for row in panel["rows"] if row["name"] == kd)
        ax.axvline(reference, color=TEACHER, lw=0.8, ls=":")
        # An edge of its own, so that a single teacher, whose band has no width, is seen too.
        ax.axvspan(panel["teacher"]["low"], panel["teacher"]["high"], color="0.85", lw=1.5)
        ax.text(panel["teacher"]["mean"], 1.01, "teacher", ha="center", fontsize=8, transform=ax.get_xaxis_transform())
        ax.set(xlabel=numbers.get("unit", "test accuracy, %"), ylim=(-0.7, len(panel["rows"]) - 0.3))
        ax.set_title(panel["title"], pad=16)  # above the word "teacher"
    return figure


def gain_against_cost(numbers, text):
    """Gain over KD in points against training cost in multiples of KD's, with intervals of the gain."""
    figure, ((ax,),) = frame(1, 1, 7.2, 4.4, text)
    placed = []  # names of about equally costly methods stand left and right in turn, or they would overlap
    for row in sorted(numbers["rows"], key=lambda row: row["gain"]):
        colour = "0.55" if row["tie"] else BLUE
        low, high = row["gain"] - row["low"], row["high"] - row["gain"]
        ax.errorbar(row["cost"], row["gain"], [[low], [high]], fmt="o", color=colour, capsize=2, lw=1)
        near = sum(abs(math.log(row["cost"] / other)) < math.log(NEAR) for other in placed)
        x, side = ((7, "left"), (-7, "right"))[near % 2]
        placed.append(row["cost"])
        ax.annotate(row["name"], (row["cost"], row["gain"]), (x, 5), textcoords="offset points", fontsize=8,
                    ha=side, va="center")  # fmt: skip
    ax.axhline(0, color=TEACHER, lw=1)
    ax.set(
        xscale="log",
        xlabel="training time with all teachers, in multiples of KD's (logarithmic)",
        ylabel="gain over KD, points of test accuracy",
    )
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    for colour, meaning in ((BLUE, "differs from kd"), ("0.55", "tie with kd")):
        ax.plot([], [], "o", color=colour, label=meaning)
    ax.legend(loc="lower right")
    return figure


def features(numbers, text):
    """Penultimate features of several networks in one plane each, aligned with the teacher's, coloured by class."""
    networks = numbers["networks"]
    figure, axes = frame(1, len(networks), 3.3 * len(networks), 3.8, text, sharex=True, sharey=True)
    palette = [BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, TEACHER, "0.6", "#8B4513", "#4B0082"]
    for ax, network in zip(axes[0], networks, strict=True):
        points = np.asarray(network["points"])
        for k, name in enumerate(numbers["classes"]):
            own = points[np.asarray(numbers["labels"]) == k]
            ax.plot(*own.T, ".", color=palette[k % len(palette)], ms=3, alpha=0.6, label=name)
        ax.set(title=network["title"], xlabel="first aligned component", xticks=[], yticks=[])
        ax.grid(False)
    axes[0, 0].set_ylabel("second aligned component")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", markerscale=3, title="class")
    return figure


def learning_curves_of_methods(numbers, text):
    """Test-free learning curves: validation error of each method over the epochs, small panels that share KD's line."""
    names = [name for name in numbers["curves"] if name != "kd"]
    columns = 4
    figure, axes = frame(-(-len(names) // columns), columns, 2.6 * columns, 2.0 * -(-len(names) // columns), text,
                         sharex=True, sharey=True)  # fmt: skip
    for ax, name in zip(axes.flat, names, strict=False):
        for line, colour in (("kd", DISTILLED), (name, ORANGE)):
            values = numbers["curves"][line]
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, lw=1.6, label=line)
        ax.set(title=name, yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:  # the lowest of each column
        ax.set_xlabel("epoch")
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel("validation error, %")
    lines = axes[0, 0].get_legend_handles_labels()[0]
    figure.legend(lines, ["kd", "the method above"], loc="outside upper center", ncols=2)
    return figure
