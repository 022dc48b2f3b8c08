"""The networks against the assignment's figures: every layer's shape, every count, and where randomness comes from."""

import keras
import numpy as np
import pytest

from utils.models import layers_in_order, mnist_assistant, mnist_student, mnist_teacher

IMAGES = np.linspace(0, 1, 3 * 28 * 28, dtype=np.float32).reshape(3, 28, 28, 1)

SHAPES = {
    mnist_teacher: {
        "conv1": (26, 26, 32),
        "pool1": (25, 25, 32),
        "conv2": (23, 23, 64),
        "pool2": (11, 11, 64),
        "flatten": (7744,),
        "dropout1": (7744,),
        "fc": (128,),
        "dropout2": (128,),
        "logits": (10,),
    },
    mnist_student: {"flatten": (784,), "fc1": (784,), "fc2": (784,), "logits": (10,)},
    mnist_assistant: {
        "conv1": (26, 26, 16),
        "pool1": (25, 25, 16),
        "conv2": (23, 23, 32),
        "pool2": (11, 11, 32),
        "flatten": (3872,),
        "dropout1": (3872,),
        "fc": (128,),
        "dropout2": (128,),
        "logits": (10,),
    },
}
PARAMETERS = {
    mnist_teacher: {"conv1": 320, "conv2": 18_496, "fc": 991_360, "logits": 1_290},
    mnist_student: {"fc1": 615_440, "fc2": 615_440, "logits": 7_850},
    mnist_assistant: {"conv1": 160, "conv2": 4_640, "fc": 495_744, "logits": 1_290},
}
ACTIVATIONS = {
    mnist_teacher: {"conv1": "relu", "conv2": "relu", "fc": "relu", "logits": "linear"},
    mnist_student: {"fc1": "relu", "fc2": "relu", "logits": "linear"},
    mnist_assistant: {"conv1": "relu", "conv2": "relu", "fc": "relu", "logits": "linear"},
}
every_network = pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)


@every_network
def test_every_layer_has_the_figures_name_order_and_output_shape(build):
    layers = [layer for layer in build().layers if not isinstance(layer, keras.layers.InputLayer)]
    assert [(layer.name, layer.output.shape[1:]) for layer in layers] == list(SHAPES[build].items())


@every_network
def test_every_layer_has_the_figures_parameters_and_activation(build):
    layers = build().layers
    assert {layer.name: layer.count_params() for layer in layers if layer.weights} == PARAMETERS[build]
    assert {layer.name: layer.activation.__name__ for layer in layers if layer.weights} == ACTIVATIONS[build]


@pytest.mark.parametrize(
    ("build", "parameters"), [(mnist_teacher, 1_011_466), (mnist_student, 1_238_730), (mnist_assistant, 501_834)]
)
def test_parameters_in_total(build, parameters):
    assert build().count_params() == parameters


@pytest.mark.parametrize("build", [mnist_teacher, mnist_assistant])
def test_both_dropouts_drop_half(build):
    model = build()
    assert [model.get_layer(name).rate for name in ("dropout1", "dropout2")] == [0.5, 0.5]


@every_network
def test_takes_float_images_and_returns_logits_that_are_no_probabilities(build):
    model = build()
    assert (model.input.shape, model.input.dtype) == ((None, 28, 28, 1), "float32")
    logits = model.predict(IMAGES, verbose=0)
    assert (logits.shape, logits.dtype) == ((3, 10), np.float32)
    assert logits.min() < 0


@every_network
def test_the_same_seed_gives_the_same_initial_weights_and_another_seed_others(build):
    def kernels(seed):
        keras.utils.set_random_seed(seed)
        return [layer.kernel.numpy() for layer in build().layers if layer.weights]

    for same, again, other in zip(kernels(1), kernels(1), kernels(2), strict=True):
        np.testing.assert_array_equal(same, again)
        assert np.mean(same == other) < 0.01


@pytest.mark.parametrize("build", [mnist_teacher, mnist_assistant])
def test_dropout_drops_in_training_alone(build):
    keras.utils.set_random_seed(0)
    model = build()
    first = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(first, model.predict(IMAGES, verbose=0))
    np.testing.assert_allclose(model(IMAGES, training=False), first, atol=1e-6)
    assert np.abs(model(IMAGES, training=True) - first).max() > 1e-3
    assert np.abs(model(IMAGES, training=True) - model(IMAGES, training=True)).max() > 1e-3


def test_the_student_is_the_same_in_training_and_inference():
    model = mnist_student()
    np.testing.assert_array_equal(model(IMAGES, training=True), model(IMAGES, training=False))


@every_network
def test_a_wider_head_changes_the_last_layer_alone(build):
    wide = build(outputs=50)
    assert wide.output.shape == (None, 50)
    kernel_inputs = {mnist_teacher: 128, mnist_student: 784, mnist_assistant: 128}[build]
    assert wide.get_layer("logits").count_params() == 50 * (kernel_inputs + 1)
    assert wide.count_params() - build().count_params() == 40 * (kernel_inputs + 1)


@every_network
@pytest.mark.parametrize("outputs", [0, -3, 2.0, True, None])
def test_an_impossible_number_of_outputs_is_refused_in_words(build, outputs):
    with pytest.raises(ValueError, match=r"outputs is .*; it must be a whole number of at least 1"):
        build(outputs=outputs)


@every_network
def test_layers_in_order_leaves_the_input_out(build):
    assert [layer.name for layer in layers_in_order(build())] == list(SHAPES[build])


def test_layers_in_order_of_a_sequential_model_and_its_functional_twin():
    sequential = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.ReLU()])
    assert layers_in_order(keras.Model(sequential.inputs, sequential.outputs)) == layers_in_order(sequential)
