"""The figures of Task 1, questions 1 to 8."""

import matplotlib.pyplot as plt
import numpy as np

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
    temperature_axis,
)


def digits(numbers, text):
    """Rows of images: originals above, their views in successive epochs below. images: [rows][columns][h][w]."""
    images = np.asarray(numbers["images"])
    rows, columns = images.shape[:2]
    figure, axes = frame(rows, columns, 0.95 * columns + 1.2, 0.95 * rows + 0.4, text)
    for ax, image in zip(axes.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, label in zip(axes[:, 0], numbers["rows"], strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    for ax, label in zip(axes[0], numbers["columns"], strict=True):
        ax.set_title(label)
    return figure


def gradient_norms(numbers, text):
    """Norm of the gradient of each loss term in the student's logits against T."""
    figure, ((ax,),) = frame(1, 1, 6.5, 3.8, text)
    t = numbers["temperatures"]
    ax.plot(t, numbers["with_t2"], "o-", color=DISTILLED, label="T² · KL, as trained")
    ax.plot(t, numbers["without_t2"], "s--", color=PURPLE, label="KL without T²")
    ax.axhline(numbers["cross_entropy"], color=SCRATCH, label="cross-entropy with the labels")
    ax.set(
        xscale="log", yscale="log", xlabel="temperature T", ylabel="mean norm of the gradient\nin a student's logits"
    )
    temperature_axis(ax, t)
    ax.legend()
    return figure


def learning_curves(numbers, text):
    """Loss terms and error of teacher and student over the epochs; panels: title -> lines."""
    figure, axes = frame(1, len(numbers["panels"]), 4.1 * len(numbers["panels"]), 3.6, text)
    colours = (DISTILLED, SCRATCH, GREEN, PURPLE)
    for ax, panel in zip(axes[0], numbers["panels"], strict=True):
        for line, colour in zip(panel["lines"], colours, strict=False):
            epochs = np.arange(1, len(line["values"][0]) + 1)
            band(ax, epochs, line["values"], colour, line["label"], line.get("style", "-"))
        ax.set(title=panel["title"], xlabel="epoch", ylabel=panel["unit"], yscale=panel.get("scale", "linear"))
        ax.legend(fontsize=8)
    return figure


def search_heatmap(numbers, text):
    """Validation accuracy, or AUC where "auc" is given, over alpha × T; the chosen setting is framed.

    A setting that was not tried is NaN and stays empty. With "low" and "high" each has its interval under it.
    """
    figure, ((ax,),) = frame(1, 1, 6.8, 3.2, text)
    if "auc" in numbers:
        values, unit, digits = np.asarray(numbers["auc"], float), "validation AUC", 3
    else:
        values, unit, digits = 100 * np.asarray(numbers["accuracy"]), "validation accuracy, %", 2
    low, high = np.nanmin(values), np.nanmax(values)
    image = ax.imshow(values, cmap="cividis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = value < (low + high) / 2
        written = "" if np.isnan(value) else f"{value:.{digits}f}"
        if written and "low" in numbers:
            written += f"\n[{numbers['low'][row][column]:.{digits}f}, {numbers['high'][row][column]:.{digits}f}]"
        ax.text(
            column,
            row,
            written,
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    row, column = numbers["alphas"].index(numbers["chosen"][0]), numbers["temperatures"].index(numbers["chosen"][1])
    ax.add_patch(plt.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, ec="white", lw=3))
    ax.add_patch(plt.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, ec=ORANGE, lw=1.5))
    ax.set_xticks(range(len(numbers["temperatures"])), [f"{t:g}" for t in numbers["temperatures"]])
    ax.set_yticks(range(len(numbers["alphas"])), [f"{a:g}" for a in numbers["alphas"]])
    ax.set(xlabel="temperature T", ylabel="alpha, the share of\nthe distillation term")
    ax.grid(False)
    figure.colorbar(image, label=unit)
    return figure


def temperature_curve(numbers, text):
    """Student test accuracy against T with its interval, teacher and student from scratch as lines."""
    figure, ((ax,),) = frame(1, 1, 7.2, 4.2, text)
    t = numbers["temperatures"]
    accuracy = 100 * np.asarray(numbers["distilled"])  # [seeds, T]
    band(ax, t, accuracy, DISTILLED, "student distilled, mean and 95% interval", possible=(0, 100))
    for seed in accuracy:
        ax.plot(t, seed, ".", color=DISTILLED, alpha=0.5, ms=5)
    for name, colour, label in (("teacher", TEACHER, "teacher"), ("scratch", SCRATCH, "student from scratch")):
        values = 100 * np.asarray(numbers[name])
        band(ax, [t[0] / 1.1, t[-1] * 1.1], np.column_stack([values, values]), colour, label, "--", (0, 100))
    temperature_axis(ax, t)
    ax.set(xlabel="temperature T", ylabel="test accuracy, %", xlim=(t[0] / 1.1, t[-1] * 1.1))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


def soft_targets(numbers, text):
    """The teacher's softened answer for a few images at each T: a row for each image."""
    t = numbers["temperatures"]
    figure, axes = frame(len(numbers["images"]), len(t) + 1, 1.75 * (len(t) + 1), 2.0 * len(numbers["images"]), text)
    for row, image in zip(axes, numbers["images"], strict=True):
        row[0].imshow(image["pixels"], cmap="gray_r", vmin=0, vmax=1)
        row[0].set(xticks=[], yticks=[], title=image["title"])
        row[0].spines[:].set_visible(False)
        for ax, temperature, probabilities in zip(row[1:], t, image["probabilities"], strict=True):
            colours = [ORANGE if k == image["label"] else BLUE for k in range(len(probabilities))]
            ax.bar(range(len(probabilities)), probabilities, color=colours)
            ax.set(ylim=(0, 1), title=f"T = {temperature:g}", xticks=range(0, len(probabilities), 3))
            ax.grid(False)
        for ax in row[2:]:
            ax.set_yticklabels([])
        row[1].set_ylabel("probability")
    for ax in axes[-1, 1:]:
        ax.set_xlabel("class")
    return figure


def target_entropy(numbers, text):
    """Spread of the entropy of the teacher's softened targets over the training set at each T."""
    figure, ((ax,),) = frame(1, 1, 6.5, 3.8, text)
    t, quantiles = numbers["temperatures"], np.asarray(numbers["quantiles"])  # [T, 5]: 5, 25, 50, 75, 95%
    ax.fill_between(t, quantiles[:, 0], quantiles[:, 4], color=SKY, alpha=0.35, lw=0, label="5 to 95% of the images")
    ax.fill_between(t, quantiles[:, 1], quantiles[:, 3], color=BLUE, alpha=0.45, lw=0, label="25 to 75%")
    ax.plot(t, quantiles[:, 2], "o-", color=TEACHER, label="median")
    ax.axhline(numbers["most"], color=SCRATCH, ls="--", label=f"most: log₂ of the classes = {numbers['most']:.2f}")
    temperature_axis(ax, t)
    ax.set(xlabel="temperature T", ylabel="entropy of the teacher's\nsoftened target, bits")
    ax.legend(loc="lower right")
    return figure


def paired_runs(numbers, text):
    """Test accuracy with and without KD, the two runs of one seed joined; one panel for each training set."""
    figure, axes = frame(1, len(numbers["panels"]), 3.6 * len(numbers["panels"]), 4.0, text, sharey=True)
    for ax, panel in zip(axes[0], numbers["panels"], strict=True):
        pairs = 100 * np.column_stack([panel["scratch"], panel["distilled"]])
        for pair in pairs:
            ax.plot([0, 1], pair, color="0.6", lw=1)
        for x, colour in ((0, SCRATCH), (1, DISTILLED)):
            ax.plot(np.full(len(pairs), x), pairs[:, x], "o", color=colour)
        d = panel["difference"]
        ax.set_title(f"{panel['title']}\n{d['mean']:+.2f} points [{d['low']:.2f}, {d['high']:.2f}]")
        ax.set_xticks([0, 1], ["from scratch", "distilled"])
        ax.set(xlim=(-0.4, 1.4))
    axes[0, 0].set_ylabel("test accuracy, %")
    return figure


def recall_gain(numbers, text):
    """Paired difference of recall, distilled minus from scratch, for each class with its interval."""
    figure, ((ax,),) = frame(1, 1, 6.8, 3.6, text)
    gains = numbers["gains"]
    for k, gain in enumerate(gains):
        colour = DISTILLED if gain["outside_noise"] else "0.55"
        low, high = gain["mean"] - gain["low"], gain["high"] - gain["mean"]
        ax.errorbar(k, gain["mean"], [[low], [high]], fmt="o", color=colour, capsize=3)
    ax.axhline(0, color=TEACHER, lw=1)
    ax.set_xticks(range(len(gains)), numbers["classes"])
    ax.set(xlabel="digit (grey: the interval holds 0)", ylabel="gain in recall, points")
    return figure


def cost_by_layer(numbers, text):
    """Parameters, multiply-adds and FLOPs of two networks by layer, stacked."""
    figure, axes = frame(1, 3, 12, 3.8, text)
    palette = {"conv1": SKY, "conv2": BLUE, "fc": YELLOW, "fc1": YELLOW, "fc2": ORANGE, "logits": GREEN}
    for ax, (quantity, title) in zip(axes[0], numbers["quantities"].items(), strict=True):
        top = max(sum(row[quantity] for row in network["rows"]) for network in numbers["networks"])
        for x, network in enumerate(numbers["networks"]):
            bottom = 0
            for row in network["rows"]:
                ax.bar(x, row[quantity], 0.6, bottom, color=palette.get(row["layer"], "0.7"), ec="white")
                if row[quantity] > 0.06 * top:
                    ax.text(x, bottom + row[quantity] / 2, row["layer"], ha="center", va="center", fontsize=9)
                bottom += row[quantity]
            ax.text(x, bottom + 0.015 * top, f"{bottom:,}", ha="center", va="bottom", fontweight="bold")
        ax.set_xticks(range(len(numbers["networks"])), [network["name"] for network in numbers["networks"]])
        ax.set(ylabel=title, ylim=(0, 1.1 * top))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
        ax.grid(False, axis="x")
    return figure


def diagrams(*models, by_stage: bool = False, names=()):
    """A drawing function for `publish`: block diagrams of models, one under the other, drawn from the models. `names`,
    one for each, stand in the titles in place of the models' own."""
    from utils import diagram  # late: it loads Keras, which the other pictures and the report do without

    draw_one = diagram.draw_stages if by_stage else diagram.draw_model

    def draw(_numbers, text):
        figure, axes = frame(len(models), 1, 15, 2.3 * len(models) + 0.4, text)
        for ax, model, name in zip(axes[:, 0], models, names or [model.name for model in models], strict=True):
            draw_one(model, ax, f"{name}: {model.count_params():,} parameters")
        return figure

    return draw
