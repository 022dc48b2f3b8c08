"""A block diagram of a model, drawn from the model itself: what Keras built is what the picture shows."""

import keras
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from utils.cost import cost_by_layer
from utils.models import layers_in_order

# Okabe and Ito's palette, which readers with any of the common colour blindnesses can tell apart. Black text is
# legible on all of these; the kind is also written in the box, so that no fact is told by colour alone.
COLOURS = {
    "convolution": "#56B4E9",
    "pooling": "#009E73",
    "dense": "#E69F00",
    "dropout": "#F0E442",
    "activation": "#CC79A7",
    "other": "#DDDDDD",
}
KINDS = {
    "convolution": (layers.Conv2D, layers.DepthwiseConv2D),
    "pooling": (layers.MaxPooling2D, layers.AveragePooling2D, layers.GlobalAveragePooling2D),
    "dense": (layers.Dense,),
    "dropout": (layers.Dropout,),
    "activation": (layers.Activation, layers.ReLU, layers.Softmax),
}
KIND_NAMES = {layers.GlobalAveragePooling2D: ["global average", "pooling"]}  # too long to be read on one line
ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6"}  # others are drawn under Keras's own names

# All in inches, for a diagram in a figure of its own; one that is given smaller axes scales its text with them.
BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN, LABELS = 1.4, 1.3, 0.25, 0.1, 1.1
ABOVE, BELOW = 0.45, 0.72  # room for the title, and for shape and parameters
TEXT_SIZE = 14.0  # points


def draw_model(model: keras.Model, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw a chain of layers from left to right, and return the axes.

    Each box holds a layer's name, kind and key settings; its output shape (without the batch axis) and its parameters
    stand beneath. `ax` defaults to a new figure of the right size; `title` to the model's name and its parameters. A
    model that isn't a chain (branches, several inputs, a layer used twice) is a ValueError.
    """
    return _draw_boxes(model, [_box_of(layer) for layer in _chain(model)], ax, title)


def draw_stages(model: keras.Model, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw a network of many layers by its stages; otherwise as `draw_model`.

    A stage is all that works at one resolution, however it branches inside: its box says how many convolutions it has,
    how wide they get and what part of the network's multiply-adds they are. Layers of a resolution without any
    convolution, such as those of the head, are drawn one by one; padding is not drawn.
    """
    multiply_adds = {row["layer"]: row["multiply_adds"] for row in cost_by_layer(model)}
    boxes, number = [], 0
    for resolution, stage in _stages(model).items():
        convolutions = [layer for layer in stage if _kind(layer) == "convolution"]
        if not convolutions:
            boxes += [_box_of(layer) for layer in stage]
            continue
        number += 1
        lines = [
            f"stage {number}",
            f"{len(convolutions)} convolution{'s' if len(convolutions) > 1 else ''}",
            f"≤ {max(layer.output.shape[-1] for layer in convolutions)} channels",
            f"{sum(multiply_adds[layer.name] for layer in convolutions) / sum(multiply_adds.values()):.0%} of the",
            "multiply-adds",
        ]
        parameters = sum(layer.count_params() for layer in stage)
        boxes.append((lines, COLOURS["convolution"], _times(resolution), _parameters(parameters)))
    return _draw_boxes(model, boxes, ax, title)


def _stages(model: keras.Model) -> dict[tuple, list]:
    """The layers by the size of their output without its channels, in the order in which the sizes are reached."""
    stages = {}
    for layer in layers_in_order(model):
        if not isinstance(layer, layers.ZeroPadding2D):
            stages.setdefault(tuple(layer.output.shape[1:-1]), []).append(layer)
    return stages


def _box_of(layer) -> tuple[list[str], str, str, str]:
    lines = [layer.name, *KIND_NAMES.get(type(layer), [type(layer).__name__]), *_settings(layer)]
    return lines, COLOURS[_kind(layer)], _shape(layer.output.shape), _parameters(layer.count_params())


def _draw_boxes(model: keras.Model, boxes: list[tuple], ax: Axes | None, title: str | None) -> Axes:
    """The input and boxes in a row, with arrows between. Each: its lines, colour, shape and parameters beneath."""
    boxes = [(["input"], "white", _shape(model.inputs[0].shape), ""), *boxes]
    width = LABELS + len(boxes) * (BOX_WIDTH + GAP) - GAP + 2 * MARGIN
    height = BELOW + BOX_HEIGHT + ABOVE
    if ax is None:
        ax = plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(-BELOW, BOX_HEIGHT + ABOVE), aspect="equal")
    ax.axis("off")
    ax.apply_aspect()  # settles how large the axes will be drawn, so that the text can be sized to them
    size = TEXT_SIZE * ax.get_window_extent().width / ax.figure.dpi / width

    title = title if title is not None else f"{model.name}: {model.count_params():,} parameters"
    ax.text(width / 2, BOX_HEIGHT + ABOVE / 2, title, size=1.15 * size, ha="center", va="center")
    for label, y in (("output", -0.24), ("parameters", -0.52)):
        ax.text(MARGIN, y, label, size=0.9 * size, color="#555555", va="center")
    for number, box in enumerate(boxes):
        x = MARGIN + LABELS + number * (BOX_WIDTH + GAP)
        if number:
            ax.annotate(
                "",
                xy=(x, BOX_HEIGHT / 2),
                xytext=(x - GAP, BOX_HEIGHT / 2),
                arrowprops={"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0, "mutation_scale": size},
            )
        _draw_box(ax, x, *box, size)
    return ax


def _draw_box(ax: Axes, x: float, lines: list[str], colour: str, shape: str, parameters: str, size: float) -> None:
    """One box with its left edge at `x`: the first line bold, all lines spread evenly over the height."""
    outline = FancyBboxPatch(
        (x, 0),
        BOX_WIDTH,
        BOX_HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour,
        edgecolor="black",
        linewidth=0.08 * size,
    )
    ax.add_patch(outline)
    step = min(0.28, 0.9 * BOX_HEIGHT / len(lines))
    top = BOX_HEIGHT / 2 + step * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        _write(ax, x, top - number * step, line, size, weight)
    _write(ax, x, -0.24, shape, size, "normal")
    _write(ax, x, -0.52, parameters, size, "normal")


def _write(ax: Axes, x: float, y: float, text: str, size: float, weight: str) -> None:
    """Centred under or in the box at `x`, smaller if it would stick out."""
    written = ax.text(x + BOX_WIDTH / 2, y, text, size=size, weight=weight, ha="center", va="center")
    # Not the whole width: hinting keeps small letters from shrinking in proportion.
    (left, _), (right, _) = ax.transData.transform([(x, 0), (x + 0.88 * BOX_WIDTH, 0)])
    needed = written.get_window_extent().width
    if needed > right - left:
        written.set_size(size * (right - left) / needed)


def _kind(layer) -> str:
    return next((kind for kind, classes in KINDS.items() if isinstance(layer, classes)), "other")


def _settings(layer) -> list[str]:
    """The lines that say what a layer does beyond its kind, none for a kind without settings."""
    kind = _kind(layer)
    if kind == "convolution":
        filters = [] if isinstance(layer, layers.DepthwiseConv2D) else [str(layer.filters)]
        stride = [_stride(layer)] if max(layer.strides) > 1 else []
        return [", ".join([_times(layer.kernel_size), *filters]), *stride, *_activation(layer)]
    if kind == "pooling" and not isinstance(layer, layers.GlobalAveragePooling2D):
        return [_times(layer.pool_size), _stride(layer)]
    if kind == "dense":
        return [f"{layer.units} units", *_activation(layer)]
    if kind == "dropout":
        return [f"rate {layer.rate:g}"]
    if isinstance(layer, layers.Activation):
        return _activation(layer)
    return []


def _stride(layer) -> str:
    """One number where both axes take the same stride."""
    return f"stride {_times(dict.fromkeys(layer.strides))}"


def _activation(layer) -> list[str]:
    name = keras.activations.serialize(layer.activation)
    return [] if name == "linear" else [ACTIVATIONS.get(name, str(name))]


def _shape(shape) -> str:
    return _times("?" if size is None else size for size in shape[1:])


def _parameters(count: int) -> str:
    return f"{count:,}" if count else "–"


def _times(sizes) -> str:
    return "×".join(str(size) for size in sizes)


def _chain(model: keras.Model) -> list:
    """The layers after the input, in order, once it is certain that each feeds the next and nothing else happens."""
    chain = layers_in_order(model)
    if isinstance(model, keras.Sequential):
        return chain
    tensor = model.inputs[0]
    for layer in chain:
        if not isinstance(layer, layers.Layer) or layer.input is not tensor:
            raise ValueError(
                f"{layer.name!r} in the model {model.name!r} does not follow the layer before it alone; only a chain "
                "of layers, each feeding the next, can be drawn."
            )
        tensor = layer.output
    return chain
