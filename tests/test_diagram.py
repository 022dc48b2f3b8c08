"""The diagram against the model it was drawn from."""

import keras
import pytest
from keras import layers
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from utils.cost import cost_by_layer
from utils.diagram import draw_model, draw_stages
from utils.models import mhist_student, mnist_student, mnist_teacher


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def boxes(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]


def arrows(ax):
    return [text for text in ax.texts if getattr(text, "arrow_patch", None)]


def column(ax, box):
    """What is written in and beneath one box, from top to bottom."""
    inside = [t for t in ax.texts if t.get_text() and box.get_x() < t.get_position()[0] < box.get_x() + box.get_width()]
    below_title = [t for t in inside if t.get_position()[1] < box.get_height()]
    return [t.get_text() for t in sorted(below_title, key=lambda t: -t.get_position()[1])]


@pytest.mark.parametrize("build", [mnist_teacher, mnist_student])
def test_every_layer_of_the_model_is_in_the_picture(build):
    model = build()
    ax = draw_model(model)
    stack = model.layers[1:]  # the first is the input
    assert len(boxes(ax)) == len(stack) + 1
    assert len(arrows(ax)) == len(stack)
    for layer in stack:
        assert texts(ax).count(layer.name) == 1
        assert type(layer).__name__ in texts(ax)
        assert "×".join(map(str, layer.output.shape[1:])) in texts(ax)


def test_what_stands_in_and_beneath_the_teachers_boxes():
    ax = draw_model(mnist_teacher())
    assert [column(ax, box) for box in boxes(ax)] == [
        ["input", "28×28×1"],
        ["conv1", "Conv2D", "3×3, 32", "ReLU", "26×26×32", "320"],
        ["pool1", "MaxPooling2D", "2×2", "stride 1", "25×25×32", "–"],
        ["conv2", "Conv2D", "3×3, 64", "ReLU", "23×23×64", "18,496"],
        ["pool2", "MaxPooling2D", "2×2", "stride 2", "11×11×64", "–"],
        ["flatten", "Flatten", "7744", "–"],
        ["dropout1", "Dropout", "rate 0.5", "7744", "–"],
        ["fc", "Dense", "128 units", "ReLU", "128", "991,360"],
        ["dropout2", "Dropout", "rate 0.5", "128", "–"],
        ["logits", "Dense", "10 units", "10", "1,290"],
    ]


def test_the_picture_follows_the_model():
    model = keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(4, (3, 2), strides=2, name="convolve"),
            layers.DepthwiseConv2D(3, name="deep"),
            layers.AveragePooling2D(1, strides=(2, 1), name="average"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh", name="squash"),
            layers.GlobalAveragePooling2D(name="everything"),
            layers.Dense(2, activation="softmax", name="answer"),
        ]
    )
    ax = draw_model(model)
    assert [column(ax, box) for box in boxes(ax)] == [
        ["input", "9×8×3"],
        ["convolve", "Conv2D", "3×2, 4", "stride 2", "4×4×4", "76"],
        ["deep", "DepthwiseConv2D", "3×3", "2×2×4", "40"],
        ["average", "AveragePooling2D", "1×1", "stride 2×1", "1×2×4", "–"],
        ["norm", "BatchNormalization", "1×2×4", "16"],
        ["squash", "Activation", "tanh", "1×2×4", "–"],
        ["everything", "global average", "pooling", "4", "–"],
        ["answer", "Dense", "2 units", "softmax", "2", "10"],
    ]


def test_one_colour_for_each_kind():
    ax = draw_model(mnist_teacher())
    colours = {column(ax, box)[0]: to_hex(box.get_facecolor()) for box in boxes(ax)}
    assert colours["conv1"] == colours["conv2"] and colours["pool1"] == colours["pool2"]
    assert colours["dropout1"] == colours["dropout2"] and colours["fc"] == colours["logits"]
    assert len(set(colours.values())) == 6  # input, convolution, pooling, flatten, dropout, dense


def test_the_title():
    assert "mnist_student: 1,238,730 parameters" in texts(draw_model(mnist_student()))
    named = texts(draw_model(mnist_student(), title="Figure 3"))
    assert "Figure 3" in named and not any("mnist_student" in text for text in named)


def network_with_long_names():
    names = [layers.DepthwiseConv2D(3), layers.GlobalAveragePooling2D(), layers.Dense(1000, name="WWWWWWWWWWWWWWWW")]
    return keras.Sequential([keras.Input((100, 100, 128)), *names])


@pytest.mark.parametrize("size", [None, (18, 5), (8, 6)])
@pytest.mark.parametrize("build", [mnist_teacher, network_with_long_names])
def test_no_text_sticks_out_of_its_box_or_the_picture(build, size):
    ax = None if size is None else plt.figure(figsize=size).add_subplot()
    drawn = draw_model(build(), ax)
    assert ax is None or drawn is ax
    drawn.figure.canvas.draw()
    for box in boxes(drawn):
        room = box.get_window_extent()
        for text in drawn.texts:
            within = box.get_x() < text.get_position()[0] < box.get_x() + box.get_width()
            if within and text.get_text() in column(drawn, box):
                extent = text.get_window_extent()
                assert room.x0 <= extent.x0 and extent.x1 <= room.x1, text.get_text()
    for text in drawn.texts:
        if text.get_text():
            extent = text.get_window_extent()
            assert drawn.figure.bbox.x0 <= extent.x0 and extent.x1 <= drawn.figure.bbox.x1, text.get_text()


def test_a_model_that_is_no_chain_is_refused_in_words():
    image = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(image)
    shared = layers.Dense(4, name="shared")
    with pytest.raises(ValueError, match="does not follow the layer before it alone"):
        draw_model(keras.Model(image, layers.Add(name="sum")([hidden, image])))
    with pytest.raises(ValueError, match="does not follow the layer before it alone"):
        draw_model(keras.Model(image, hidden + 1.0))
    with pytest.raises(ValueError, match=r"'side' .* does not follow"):
        draw_model(keras.Model(image, [hidden, layers.Dense(2, name="side")(image)]))
    with pytest.raises(ValueError, match="is used 2 times"):
        draw_model(keras.Model(image, shared(shared(image))))


@pytest.mark.parametrize("nothing", ["model", keras.Sequential([layers.Dense(2)])])
def test_a_model_without_an_input_shape_is_refused_in_words(nothing):
    with pytest.raises(ValueError, match="knows its input shape"):
        draw_model(nothing)


def test_a_branching_network_is_drawn_by_its_stages():
    image = keras.Input((8, 8, 3))
    scaled = layers.Rescaling(2.0, name="scaling")(image)
    first = layers.Conv2D(4, 1, use_bias=False, strides=2, name="first")(scaled)  # 16 places x 3 x 4 = 192
    padded = layers.ZeroPadding2D(1)(first)
    second = layers.DepthwiseConv2D(3, use_bias=False, name="second")(padded)  # 16 places x 9 x 4 = 576
    both = layers.Add()([first, second])
    third = layers.Conv2D(6, 1, strides=2, name="third")(layers.MaxPooling2D(1)(both))  # 4 places x 4 x 6 = 96
    pooled = layers.GlobalAveragePooling2D(name="pool")(third)
    answer = layers.Dense(2, use_bias=False, name="logits")(pooled)  # 12
    ax = draw_stages(keras.Model(image, answer))
    assert [column(ax, box) for box in boxes(ax)] == [
        ["input", "8×8×3"],
        ["scaling", "Rescaling", "8×8×3", "–"],
        ["stage 1", "2 convolutions", "≤ 4 channels", "88% of the", "multiply-adds", "4×4", "48"],
        ["stage 2", "1 convolution", "≤ 6 channels", "11% of the", "multiply-adds", "2×2", "30"],
        ["pool", "global average", "pooling", "6", "–"],
        ["logits", "Dense", "2 units", "2", "12"],
    ]


def test_stages_are_counted_from_one_without_a_scaling_too():
    ax = draw_stages(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 1), layers.Conv2D(4, 1, strides=2)]))
    assert [column(ax, box)[0] for box in boxes(ax)] == ["input", "stage 1", "stage 2"]


def test_the_stages_of_task_2s_student_leave_no_convolution_and_no_parameter_out():
    model = mhist_student(size=32)
    ax = draw_stages(model)
    columns = [column(ax, box) for box in boxes(ax)]
    kinds = [row["kind"] for row in cost_by_layer(model)]
    in_stages = sum(int(lines[1].split()[0]) for lines in columns if lines[0].startswith("stage"))
    assert in_stages == kinds.count("Conv2D") + kinds.count("DepthwiseConv2D") == 52
    of_boxes = [lines[-1].replace(",", "") for lines in columns[1:]]  # the input has none
    assert sum(int(count) for count in of_boxes if count != "–") == model.count_params()
    assert [lines[-2] for lines in columns] == [  # five times half the resolution
        "input", "32×32×3", "16×16", "8×8", "4×4", "2×2", "1×1", "1280", "1280", "2"
    ]  # fmt: skip
