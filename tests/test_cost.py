"""Counts against the assignment's exact numbers, against each other, and layer by layer against the profiler."""

import functools
import logging
import sys

import keras
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import ops

from utils import cost
from utils.models import mhist_assistant, mhist_student, mhist_teacher, mnist_assistant, mnist_student, mnist_teacher

#                  parameters, FLOPs, multiply-adds
COUNTS = {
    mnist_teacher: (1_011_466, 22_042_058, 10_937_728),
    mnist_student: (1_238_730, 2_475_882, 1_237_152),
    mnist_assistant: (501_834, 6_147_114, 3_031_872),
}
MHIST_COUNTS = {
    (mhist_teacher, 96): (23_568_898, 1_283_753_602, 639_225_856),
    (mhist_teacher, 224): (23_568_898, 6_988_682_882, 3_480_211_456),
    (mhist_student, 96): (2_260_546, 112_685_506, 55_011_712),
    (mhist_student, 224): (2_260_546, 613_032_386, 299_496_832),
    (mhist_assistant, 96): (7_039_554, 1_047_280_197, 520_374_272),
    (mhist_assistant, 224): (7_039_554, 5_700_725_317, 2_833_139_712),
}
every_network = pytest.mark.parametrize("build", COUNTS, ids=lambda build: build.__name__)
every_mhist_network = pytest.mark.parametrize(
    ("build", "size"), MHIST_COUNTS, ids=lambda value: getattr(value, "__name__", value)
)


def small_network():
    return keras.Sequential(
        [
            keras.Input((9, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),  # 7x6x4
            layers.DepthwiseConv2D(3, use_bias=False, depth_multiplier=2),  # 5x4x8
            layers.Flatten(),
            layers.Dense(5),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def mhist():
    """Each network of Task 2 is built once: that takes seconds."""
    return functools.cache(lambda build, size: build(size=size))


@every_network
def test_the_assignments_counts(build):
    model = build()
    assert (cost.count_parameters(model), cost.count_flops(model), cost.count_multiply_adds(model)) == COUNTS[build]


@pytest.mark.parametrize("build", [mnist_teacher, mnist_student, small_network])
def test_keras_flops_and_the_profiler_agree(build):
    model = build()
    for batch_size in (1, 3):
        assert cost.count_flops_keras_flops(model, batch_size) == cost.count_flops(model, batch_size)


def test_flops_grow_with_the_batch_and_ignore_training():
    assert cost.count_flops(mnist_teacher(), batch_size=7) == 7 * 22_042_058


def test_small_network_by_hand():
    multiply_adds = [7 * 6 * 4 * 27, 5 * 4 * 8 * 9, 0, 160 * 5]
    rows = cost.cost_by_layer(small_network())
    assert [row["multiply_adds"] for row in rows] == multiply_adds
    assert [row["flops"] for row in rows] == [2 * multiply_adds[0] + 168, 2 * multiply_adds[1], 0, 2 * 800 + 5]
    assert [row["activations"] for row in rows] == [168, 160, 160, 5]
    assert [row["parameters"] for row in rows] == [27 * 4 + 4, 9 * 4 * 2, 0, 805]


@every_network
def test_rows_add_up_to_the_totals(build):
    model = build()
    rows = cost.cost_by_layer(model)
    totals = tuple(sum(row[column] for row in rows) for column in ("parameters", "flops", "multiply_adds"))
    assert totals == COUNTS[build]


def test_rows_of_the_teacher():
    columns = ("layer", "kind", "output_shape", "parameters", "multiply_adds", "flops", "activations")
    assert [tuple(row[column] for column in columns) for row in cost.cost_by_layer(mnist_teacher())] == [
        ("conv1", "Conv2D", (26, 26, 32), 320, 194_688, 411_008, 21_632),
        ("pool1", "MaxPooling2D", (25, 25, 32), 0, 0, 80_000, 20_000),
        ("conv2", "Conv2D", (23, 23, 64), 18_496, 9_750_528, 19_534_912, 33_856),
        ("pool2", "MaxPooling2D", (11, 11, 64), 0, 0, 30_976, 7_744),
        ("flatten", "Flatten", (7744,), 0, 0, 0, 7_744),
        ("dropout1", "Dropout", (7744,), 0, 0, 0, 7_744),
        ("fc", "Dense", (128,), 991_360, 991_232, 1_982_592, 128),
        ("dropout2", "Dropout", (128,), 0, 0, 0, 128),
        ("logits", "Dense", (10,), 1_290, 1_280, 2_570, 10),
    ]


@every_mhist_network
def test_the_counts_of_the_mhist_networks(build, size, mhist):
    model = mhist(build, size)
    counted = (cost.count_parameters(model), cost.count_flops(model), cost.count_multiply_adds(model))
    assert counted == MHIST_COUNTS[build, size]


@every_mhist_network
def test_rows_of_the_mhist_networks_add_up_to_the_totals(build, size, mhist):
    rows = cost.cost_by_layer(mhist(build, size))
    totals = tuple(sum(row[column] for row in rows) for column in ("parameters", "flops", "multiply_adds"))
    assert totals == MHIST_COUNTS[build, size]


def test_rows_of_an_mhist_network_by_hand(mhist):
    columns = ("kind", "output_shape", "parameters", "multiply_adds", "flops", "activations")
    rows = [tuple(row[column] for column in columns) for row in cost.cost_by_layer(mhist(mhist_assistant, 96))]
    assert rows[:7] == [
        ("Normalization", (96, 96, 3), 0, 0, 2 * 27_648 + 3, 27_648),
        ("ZeroPadding2D", (102, 102, 3), 0, 0, 0, 31_212),
        ("Conv2D", (48, 48, 64), 9_408, 48 * 48 * 9_408, 2 * 48 * 48 * 9_408, 147_456),
        ("BatchNormalization", (48, 48, 64), 256, 0, 2 * 147_456 + 6 * 64, 147_456),
        ("Activation", (48, 48, 64), 0, 0, 0, 147_456),
        ("ZeroPadding2D", (50, 50, 64), 0, 0, 0, 160_000),
        ("MaxPooling2D", (24, 24, 64), 0, 0, 9 * 36_864, 36_864),
    ]
    assert rows[-3:] == [
        ("GlobalAveragePooling2D", (1024,), 0, 0, 9 * 1024, 1024),
        ("Dropout", (1024,), 0, 0, 0, 1024),
        ("Dense", (2,), 2_050, 2_048, 4_098, 2),
    ]


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, (3, 2), strides=2, padding="same", use_bias=False),
        layers.Conv2D(4, 3, activation="softmax"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu6"),
        layers.Dense(5, activation="sigmoid"),
        layers.MaxPooling2D((3, 2), strides=2, padding="same"),
        layers.AveragePooling2D(3, strides=1),
        layers.GlobalAveragePooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Activation("softmax"),
        layers.Activation("tanh"),
        layers.ReLU(),
        layers.ReLU(max_value=6),
        layers.ZeroPadding2D(((1, 2), (3, 0))),
        layers.BatchNormalization(),
        layers.BatchNormalization(axis=1, trainable=False),
        layers.BatchNormalization(scale=False),
        layers.BatchNormalization(center=False),
        layers.Rescaling(2.0, offset=-1.0),
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=(0.1, 0.2, 0.3), variance=(1.0, 2.0, 3.0)),
        layers.Normalization(axis=None, mean=0.1, variance=2.0),
    ],
    ids=lambda layer: layer.name,
)
def test_the_formula_of_each_layer_is_the_profilers(layer):
    model = keras.Sequential([keras.Input((9, 8, 3)), layer])
    (row,) = cost.cost_by_layer(model)
    assert row["flops"] == cost.count_flops(model)


@pytest.mark.parametrize(
    ("layer", "inputs", "flops"),
    [
        (layers.Add(), 1, 0),
        (layers.Add(), 2, 216),
        (layers.Add(), 3, 2 * 216),
        (layers.Concatenate(), 2, 0),
        (layers.Concatenate(axis=1), 3, 0),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_formula_of_each_layer_with_several_inputs_is_the_profilers(layer, inputs, flops):
    images = [keras.Input((9, 8, 3)) for _ in range(inputs)]
    model = keras.Model(images, layer(images))
    (row,) = cost.cost_by_layer(model)
    assert row["flops"] == cost.count_flops(model) == flops


def test_batch_normalisation_prepares_its_channels_once_for_a_batch():
    model = keras.Sequential([keras.Input((9, 8, 3)), layers.BatchNormalization()])
    assert [cost.count_flops(model, batch_size) for batch_size in (1, 7)] == [2 * 216 + 6 * 3, 7 * 2 * 216 + 6 * 3]


def test_a_functional_model_gives_the_rows_of_the_sequential_one():
    sequential = small_network()
    functional = keras.Model(sequential.inputs, sequential.outputs)
    assert cost.cost_by_layer(functional) == cost.cost_by_layer(sequential)


def test_multiply_adds_of_models_that_hold_batch_normalisation_and_other_models():
    image = keras.Input((9, 8, 3))
    features = layers.BatchNormalization()(small_network()(image))
    assert cost.count_multiply_adds(keras.Model(image, layers.Dense(2)(features))) == 4536 + 1440 + 800 + 10


def test_multiply_adds_of_grouped_convolutions_where_the_profiler_sees_nothing():
    model = keras.Sequential([keras.Input((9, 8, 4)), layers.Conv2D(6, 3, groups=2)])
    assert cost.count_multiply_adds(model) == 7 * 6 * 6 * 9 * 2
    with pytest.raises(ValueError, match="cannot look into"):
        cost.count_flops(model)


def test_a_function_call_that_can_be_written_out_is_counted_like_what_it_calls():
    network = small_network()
    image = keras.Input((9, 8, 3))
    called = keras.Model(image, layers.Lambda(tf.function(lambda x: network(x, training=False)))(image))
    assert cost.count_flops(called) == cost.count_flops(network)


def test_models_with_two_inputs():
    left, right = keras.Input((3,)), keras.Input((4,))
    model = keras.Model([left, right], [layers.Dense(2)(left), layers.Dense(2)(right)])
    assert cost.count_flops(model) == cost.count_flops_keras_flops(model) == 2 * 6 + 2 + 2 * 8 + 2


# keras-flops, beside a TensorFlow that it was not written for


def test_keras_flops_leaves_nothing_behind(monkeypatch):
    def changeable():
        options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation
        return ops._stats_registry, set(ops._stats_registry.list()), options, tf.get_logger().level

    monkeypatch.setattr(tf.get_logger(), "level", logging.WARNING)  # whatever earlier tests left
    before = changeable()
    cost.count_flops_keras_flops(small_network())
    assert changeable() == before
    assert not [name for name in sys.modules if name.startswith("keras_flops")]


def test_keras_flops_puts_everything_back_when_it_fails():
    registry = ops._stats_registry
    with pytest.raises(ZeroDivisionError), cost._keras_flops():
        raise ZeroDivisionError
    assert ops._stats_registry is registry


def test_without_keras_flops_the_count_comes_from_the_profiler_with_a_note(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_flops", None)  # makes `import keras_flops` an ImportError
    with pytest.warns(RuntimeWarning, match=r"keras-flops does not work here \(ModuleNotFoundError.*profiler"):
        assert cost.count_flops_keras_flops(mnist_student(), batch_size=2) == 2 * 2_475_882


@pytest.mark.parametrize("count", [cost.count_flops, cost.count_flops_keras_flops])
def test_counting_prints_nothing(count, capfd, caplog):
    # TensorFlow reports a deprecated function once for each line that calls it; forget what it has reported.
    from tensorflow.python.util import deprecation

    deprecation._PRINTED_WARNING.clear()
    count(small_network())
    assert capfd.readouterr().out == ""
    assert caplog.text == ""


# What is refused


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (layers.LayerNormalization(name="norm"), "Layer 'norm' is a LayerNormalization, and its FLOPs formula"),
        (layers.ReLU(max_value=4, name="cut"), "Layer 'cut' is a ReLU"),
        (layers.ReLU(negative_slope=0.1, name="leak"), "Layer 'leak' is a ReLU"),
        (layers.Conv2D(2, 3, activation="gelu", name="odd"), "Layer 'odd' has the activation 'gelu'"),
        (layers.Conv2D(2, 3, dilation_rate=2, name="wide"), r"Layer 'wide' is dilated by \(2, 2\)"),
    ],
)
def test_a_layer_without_a_formula_is_named(layer, words):
    with pytest.raises(ValueError, match=words):
        cost.cost_by_layer(keras.Sequential([keras.Input((9, 8, 3)), layer]))


def test_an_operation_that_is_no_layer_is_named():
    image = keras.Input((4,))
    with pytest.raises(ValueError, match=r"Layer '.*' is a Add"):
        cost.cost_by_layer(keras.Model(image, layers.Dense(4)(image) + image))


def test_a_sum_of_different_shapes_is_named():
    images = [keras.Input((9, 8, 3)), keras.Input((1, 1, 3))]
    with pytest.raises(ValueError, match=r"Layer 'sum' adds .* only equal shapes"):
        cost.cost_by_layer(keras.Model(images, layers.Add(name="sum")(images)))


def test_a_model_inside_another_is_named():
    image = keras.Input((9, 8, 3))
    with pytest.raises(ValueError, match="Layer 'small' is a Sequential"):
        cost.cost_by_layer(keras.Model(image, small_network()(image)))


def test_a_layer_used_twice_is_named():
    image, dense = keras.Input((4,)), layers.Dense(4, name="twice")
    model = keras.Model(image, dense(dense(image)))
    for count in (cost.cost_by_layer, cost.count_multiply_adds):
        with pytest.raises(ValueError, match="Layer 'twice' is used 2 times"):
            count(model)
    assert cost.count_flops(model) == 2 * (2 * 16 + 4)


def test_multiply_adds_of_an_unknown_layer_with_a_matrix_are_not_left_out():
    model = keras.Sequential([keras.Input((9, 8, 3)), layers.Conv2DTranspose(2, 3, name="back")])
    with pytest.raises(ValueError, match="Layer 'back' is a Conv2DTranspose with a matrix"):
        cost.count_multiply_adds(model)


@pytest.mark.parametrize(
    "count", [cost.count_flops, cost.count_flops_keras_flops, cost.count_multiply_adds, cost.cost_by_layer]
)
def test_a_model_without_a_fixed_input_shape_is_refused(count):
    for nothing in ("model", keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match="knows its input shape"):
            count(nothing)
    with pytest.raises(ValueError, match="Build the model with a fixed input shape"):
        count(keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)]))


@pytest.mark.parametrize("count", [cost.count_flops, cost.count_flops_keras_flops])
@pytest.mark.parametrize("batch_size", [0, -1, 1.5, None, True])
def test_an_impossible_batch_size_is_refused(count, batch_size):
    with pytest.raises(ValueError, match="batch_size is"):
        count(small_network(), batch_size)
