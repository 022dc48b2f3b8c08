"""The figures on what a student costs, how far its probabilities hold and what it withstands."""

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
    band,
    frame,
    mean_and_seeds,
)

OTHERS = "student, other methods"  # smaller, and behind the students that the question is about
ROLES = {"teacher": (TEACHER, "s"), "assistant": (GREEN, "P"), "distilled": (DISTILLED, "o"), "scratch": (SCRATCH, "D"),
         "student with KD": (DISTILLED, "o"), "student without KD": (SCRATCH, "^"),
         OTHERS: (SKY, "v")}  # fmt: skip
MANY = ("distilled", OTHERS)  # roles of many points: only those on the frontier are named
LINES = ((TEACHER, "-", "s"), (SCRATCH, "--", "D"), (BLUE, "-", "o"), (GREEN, "-.", "^"), (PURPLE, ":", "v"),
         (SKY, "-", "P"), (YELLOW, "--", "X"))  # fmt: skip


def reliability_diagram(numbers, text):
    """Accuracy against confidence, a panel for each model, over the share of the images in each bin (grey).

    numbers: {"models": [{"name", "calibration_error", "temperature" (optional), "bins": of utils.calibration}]};
    "axes" (optional), what is said and what comes of it where they are not confidence and accuracy.
    """
    models = numbers["models"]
    said, came = numbers.get("axes", ("confidence", "accuracy"))
    columns = min(len(models), 4)
    lines = -(-len(models) // columns)
    figure, axes = frame(lines, columns, 2.9 * columns, 2.9 * lines + 0.4, text, sharex=True, sharey=True)
    for ax, model in zip(axes.flat, models, strict=False):
        bins = {name: np.asarray(values) for name, values in model["bins"].items()}
        ax.plot([0, 1], [0, 1], color="0.5", lw=1, ls="--")
        ax.bar(bins["from"], bins["count"] / bins["count"].sum(), bins["to"] - bins["from"], align="edge", color="0.85")
        # An interval may end exactly at the accuracy, and rounding must not turn its length negative.
        error = [np.maximum(bins["accuracy"] - bins["low"], 0), np.maximum(bins["high"] - bins["accuracy"], 0)]
        ax.errorbar(
            bins["confidence"], bins["accuracy"], error, fmt="o", ms=4, color=BLUE, ecolor=SKY, capsize=2,
            clip_on=False,
        )  # fmt: skip
        # A calibration error is small: in percent with two digits, as accuracies are elsewhere.
        note = f"calibration error {100 * model['calibration_error']:.2f} %"
        if model.get("temperature"):
            note += f", fitted T {model['temperature']:.2f}"
        ax.set_title(model["name"], pad=18)
        ax.text(0.5, 1.03, note, transform=ax.transAxes, ha="center", va="bottom", fontsize=8, color="0.35")
        ax.set(xlim=(0, 1), ylim=(0, 1))
    for ax in axes.flat[len(models) :]:
        ax.set_visible(False)
    for ax in axes.flat[max(0, len(models) - columns) : len(models)]:
        ax.set_xlabel(said)
        ax.tick_params(labelbottom=True)
    for ax in axes[:, 0]:
        ax.set_ylabel(f"{came}; grey: share of images")
    return figure


def over_students(numbers, text):
    """Calibration error of each kind of student, as it is and with a fitted temperature, and how alike LIME's maps of
    a student and of the teacher are: a tick for each student, mean and 95% interval over students.

    numbers: "calibration", [{"name", "error", "error with it"}], and "explanations", {"rank_correlation": {name: …}},
    whose leaves hold "mean", "low", "high" and "seeds"; "teacher", {"error", "error with it"}.
    """
    figure, ((left, right),) = frame(1, 2, 10.4, 0.42 * len(numbers["calibration"]) + 1.5, text, width_ratios=(3, 2))
    names = []
    for y, row in enumerate(reversed(numbers["calibration"])):
        names.append(row["name"])
        for number, colour, lift, label in (("error", ORANGE, 0.14, "as it is"),
                                            ("error with it", BLUE, -0.14, "with a fitted temperature")):  # fmt: skip
            mean_and_seeds(left, row[number], y + lift, colour, label=None if y else label)
    left.set_yticks(range(len(names)), names)
    for number, colour in (("error", ORANGE), ("error with it", BLUE)):
        left.axvline(numbers["teacher"][number], color=colour, lw=1, ls=":")
    left.set(xlabel="calibration error, % (dotted: the teacher's)", xlim=(0, None))
    left.legend(loc="lower right")
    arms = {name: found for name, found in numbers["explanations"]["rank_correlation"].items() if "seeds" in found}
    for y, (name, found) in enumerate(reversed(arms.items())):
        mean_and_seeds(right, found, y, SCRATCH if name == "scratch" else DISTILLED)
    right.set_yticks(range(len(arms)), reversed(arms))
    right.set(xlabel="rank correlation of LIME's map with the teacher's", ylim=(-0.7, len(arms) - 0.3))
    return figure


def corruption_curves(numbers, text):
    """Accuracy against the strength of a corruption, a panel for each kind; a line for each model, its band over seeds.

    numbers: {"kinds": [...], "models": [{"name", "accuracy": {kind: [seeds][at strength 0, 1, …]}}]}
    """
    kinds = numbers["kinds"]
    figure, axes = frame(1, len(kinds), 3.0 * len(kinds) + 1.8, 3.4, text, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        for number, model in enumerate(numbers["models"]):
            colour, style, marker = LINES[number % len(LINES)]
            accuracy = 100 * np.asarray(model["accuracy"][kind], float)
            strengths = np.arange(accuracy.shape[1])
            band(ax, strengths, accuracy, colour, model["name"], style, possible=(0, 100))
            ax.plot(strengths, accuracy.mean(axis=0), marker, color=colour, ms=4)
        ax.set(title=kind, xlabel="strength (0: none)", xticks=strengths)
    axes[0, 0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure


def explanation(numbers, text):
    """Pictures and, beside each, how much each place speaks for (blue) or against (red) the class that was predicted.

    numbers: {"pictures": [{"name", "image": [H, W, C] in [0, 1], "map": [H, W], "class", "probability"}]}
    """
    pictures = numbers["pictures"]
    figure, axes = frame(len(pictures), 2, 7.4, 3.5 * len(pictures) + 0.3, text)
    for row, picture in zip(axes, pictures, strict=True):
        image, weights = np.asarray(picture["image"]), np.asarray(picture["map"])
        row[0].imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        most = max(np.abs(weights).max(), 1e-9)
        shown = row[1].imshow(weights, cmap="RdBu", vmin=-most, vmax=most)
        figure.colorbar(shown, ax=row[1], label="LIME's weight, in probability")
        row[0].set(title=f"{picture['class']}  {picture['probability']:.1%}", xlabel=picture["name"])
        row[1].set_title(f"what speaks for {picture['class']}")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    return figure


def frontier(costs, qualities) -> list[int]:
    """Positions of the points that no other beats: none costs less at the same quality or more. By rising cost."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i]))
    found, best = [], -np.inf
    for i in order:
        if qualities[i] > best:
            found.append(i)
            best = qualities[i]
    return found


def cost_frontier(numbers, text):
    """Quality against FLOPs, latency and size, the frontier as a line and its points named.

    numbers: {"quality": axis label, "latency": axis label, "points": [{"name", "role": one of ROLES, "quality",
    "flops", "latency" (ms), "bytes"; optional "low" and "high" of the quality, "latency_low" and "latency_high"}]}.
    The legend names the roles as they are called.
    """
    points = numbers["points"]
    qualities = [point["quality"] for point in points]
    figure, axes = frame(1, 3, 12.5, 4.4, text, sharey=True)
    panels = (
        ("flops", 1e-6, "FLOPs of one image, millions"), ("latency", 1, numbers["latency"]), ("bytes", 1e-6, "size, MB")
    )  # fmt: skip
    for ax, (name, unit, label) in zip(axes[0], panels, strict=True):
        costs = [unit * point[name] for point in points]
        best = frontier(costs, qualities)
        ax.plot([costs[i] for i in best], [qualities[i] for i in best], color="0.6", lw=1.2, drawstyle="steps-post",
                label="frontier")  # fmt: skip
        labelled = [i for i, point in enumerate(points) if i in best or point["role"] not in MANY]
        named = set()  # roles that the legend has
        for i, point in enumerate(points):
            colour, marker = ROLES[point["role"]]
            behind = {"ms": 4.5, "zorder": 2} if point["role"] == OTHERS else {"ms": 6, "zorder": 3}
            ax.errorbar(
                costs[i], qualities[i], _error(point, "quality", "low", "high"),
                _error(point, name, f"{name}_low", f"{name}_high", unit), fmt=marker, color=colour, capsize=2, **behind,
                lw=1, mfc=colour if i in best else "white", label=None if point["role"] in named else point["role"],
            )  # fmt: skip
            named.add(point["role"])
            if i in labelled:
                crowded = any(
                    qualities[j] > qualities[i] and np.isclose(costs[j], costs[i], rtol=0.2) for j in labelled
                )
                beside = (6, -10 if crowded else 4)
                ax.annotate(point["name"], (costs[i], qualities[i]), beside, textcoords="offset points", fontsize=8)
        ax.set(xscale="log", xlabel=f"{label} (logarithmic)")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.3)
    axes[0, 0].set_ylabel(numbers["quality"])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", title="filled: on the frontier")
    return figure


def _error(point, name, low, high, unit=1):
    """Distances to the ends of an interval as errorbar takes them, or None where the point has none."""
    if low not in point or high not in point:
        return None
    return [[unit * max(point[name] - point[low], 0)], [unit * max(point[high] - point[name], 0)]]
