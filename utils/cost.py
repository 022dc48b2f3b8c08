"""What a model costs: parameters, multiply-adds and FLOPs, in total and layer by layer.

FLOPs here is a number of operations for one image, not operations per second. `count_flops` asks TensorFlow's
profiler; `count_flops_keras_flops` asks the keras-flops package, which asks the same profiler; `cost_by_layer` writes
the same sum down by hand. What the profiler counts, found by asking it for one layer at a time (TensorFlow 2.21):

    convolution, dense layer    2 for each multiply-add, and 1 for each output element that gets a bias
    max and average pooling     window height x width for each output element
    global average pooling      1 for each input element
    batch normalisation         2 for each element, 6 for each channel (5 without a scale)
    rescaling                   2 for each element
    normalisation               2 for each element, 1 for each variance
    sum of n equal shapes       n - 1 for each output element
    softmax                     5 for each element
    ReLU, ReLU6, sigmoid, tanh, dropout at inference, flatten, zero padding, concatenation    nothing

Batch normalisation is never folded into the convolution before it. From its variance, mean, scale and shift it works
out one factor and one summand for each channel, and does so once for a batch: the FLOPs of a network that has it grow
by a little less than the batch size.
"""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import keras
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

from utils.models import check_input_shape_known, layers_in_order

CONVOLUTIONS_AND_DENSE = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
POOLING = (layers.MaxPooling2D, layers.AveragePooling2D)
NORMALISING = (layers.BatchNormalization, layers.Rescaling, layers.Normalization)
WITHOUT_FLOPS = (layers.Flatten, layers.Dropout, layers.ZeroPadding2D, layers.Concatenate)
FLOPS_PER_ACTIVATION = {"linear": 0, "relu": 0, "relu6": 0, "sigmoid": 0, "tanh": 0, "softmax": 5}


def count_parameters(model: keras.Model) -> int:
    """Number of weights, trainable or not; the optimizer's state and dropout's random state are not counted."""
    return model.count_params()


def count_flops(model: keras.Model, batch_size: int = 1) -> int:
    """FLOPs of one forward pass in inference mode over `batch_size` >= 1 images, by TensorFlow's profiler.

    The profiler reads a graph whose shapes are all known; it runs nothing. It would silently skip whatever hides in a
    function call inside the graph: most calls can be written out, and one that cannot (Keras computes grouped
    convolutions so) is an error.
    """
    _check_model(model)
    _check_batch_size(batch_size)
    inputs = [tf.TensorSpec((batch_size, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    inference = tf.function(lambda *images: _infer(model, images)).get_concrete_function(*inputs)
    graph = inference.graph
    if _function_calls(graph):  # written out on the way to constant weights, which takes several times as long
        graph = convert_variables_to_constants_v2_as_graph(inference)[0].graph
    if hidden := _function_calls(graph):
        raise ValueError(
            f"The profiler cannot look into the function call {hidden[0]!r} of the model {model.name!r}, so its count "
            "would be too low. A Conv2D with groups > 1 does this; count_multiply_adds handles it."
        )
    with _without_tensorflow_warnings():
        profile = tf.compat.v1.profiler.profile(
            graph=graph, run_meta=tf.compat.v1.RunMetadata(), cmd="scope", options=_quiet_float_operation()
        )
    return profile.total_float_ops


def _function_calls(graph: tf.Graph) -> list[str]:
    return [op.name for op in graph.get_operations() if op.type.endswith("PartitionedCall")]


def count_flops_keras_flops(model: keras.Model, batch_size: int = 1) -> int:
    """The same count through the keras-flops package, as the assignment asks; `count_flops` if the package fails.

    Where keras-flops cannot be imported or run, a RuntimeWarning says why, and the profiler's count comes back. The two
    may differ for a model with fused batch normalisation or a Max operation, where keras-flops has formulas of its
    own, and for grouped convolutions, which it leaves out in silence.
    """
    _check_model(model)
    _check_batch_size(batch_size)
    try:
        with _keras_flops() as get_flops:
            return get_flops(_WithListShapes(model), batch_size=batch_size)
    except Exception as error:  # an old package over TensorFlow's internals: no list of its failures can be complete
        warnings.warn(
            f"keras-flops does not work here ({type(error).__name__}: {error}); "
            "the FLOPs come straight from TensorFlow's profiler.",
            RuntimeWarning,
            stacklevel=2,
        )
    return count_flops(model, batch_size)


def count_multiply_adds(model: keras.Model) -> int:
    """Multiply-adds for one image in the Conv2D, DepthwiseConv2D and Dense layers, those of nested models included.

    Layers whose weights are vectors at most (batch normalisation) count as none. A layer that holds a matrix and is
    none of the three kinds would be left out in silence, so that it is a ValueError.
    """
    _check_model(model)
    total = 0
    for layer in layers_in_order(model):
        if isinstance(layer, keras.Model):
            total += count_multiply_adds(layer)
        elif isinstance(layer, CONVOLUTIONS_AND_DENSE):
            total += _multiply_adds(layer)
        elif any(len(weight.shape) > 1 for weight in getattr(layer, "weights", [])):
            raise ValueError(
                f"Layer {layer.name!r} is a {type(layer).__name__} with a matrix of weights; multiply-adds are known "
                f"for {_names(CONVOLUTIONS_AND_DENSE)} only. Add its formula to utils/cost.py."
            )
    return total


def cost_by_layer(model: keras.Model) -> list[dict]:
    """One row for each layer after the input, for one image, by the formulas at the top of this module.

    Keys: layer (name), kind (class), output_shape (without the batch axis), parameters, multiply_adds, flops,
    activations (elements of the output). The column flops adds up to `count_flops(model)` exactly, parameters to
    `count_parameters(model)`. An activation fused into a layer belongs to the layer's row. A layer whose formula isn't
    here, or one that is used twice, is a ValueError that names it.
    """
    _check_model(model)
    return [_row(layer) for layer in layers_in_order(model)]


def _infer(model: keras.Model, images):
    return model(images[0] if len(images) == 1 else list(images), training=False)


def _row(layer) -> dict:
    flops = _flops(layer)  # first: it is the one that knows which layers are known
    return {
        "layer": layer.name,
        "kind": type(layer).__name__,
        "output_shape": tuple(layer.output.shape[1:]),
        "parameters": layer.count_params(),
        "multiply_adds": _multiply_adds(layer) if isinstance(layer, CONVOLUTIONS_AND_DENSE) else 0,
        "flops": flops,
        "activations": _elements(layer.output),
    }


def _flops(layer) -> int:
    outputs = _elements(layer.output)
    if isinstance(layer, CONVOLUTIONS_AND_DENSE):
        if max(getattr(layer, "dilation_rate", (1, 1))) > 1:
            # TensorFlow cuts the image up for these and pads the pieces; the profiler counts the padding too.
            raise ValueError(f"Layer {layer.name!r} is dilated by {layer.dilation_rate}; only dilation 1 is counted.")
        bias = outputs if layer.use_bias else 0
        return 2 * _multiply_adds(layer) + bias + outputs * _flops_per_activation(layer)
    if isinstance(layer, POOLING):
        return outputs * math.prod(layer.pool_size)
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return _elements(layer.input)
    if isinstance(layer, layers.BatchNormalization):
        return 2 * outputs + (6 if layer.scale else 5) * layer.output.shape[layer.axis]
    if isinstance(layer, layers.Rescaling):
        return 2 * outputs
    if isinstance(layer, layers.Normalization):
        return 2 * outputs + math.prod(layer.variance.shape)
    if isinstance(layer, layers.Add):
        return _additions(layer)
    if isinstance(layer, layers.Activation):
        return outputs * _flops_per_activation(layer)
    if isinstance(layer, layers.ReLU) and layer.max_value in (None, 6) and not layer.negative_slope + layer.threshold:
        return 0
    if isinstance(layer, WITHOUT_FLOPS):
        return 0
    known = (*CONVOLUTIONS_AND_DENSE, *POOLING, layers.GlobalAveragePooling2D, *NORMALISING, layers.Add, *WITHOUT_FLOPS)
    raise ValueError(
        f"Layer {layer.name!r} is a {type(layer).__name__}, and its FLOPs formula is not known here. Known are "
        f"{_names(known)}, Activation and a plain ReLU or ReLU6; count_flops counts any model as a whole."
    )


def _additions(layer) -> int:
    summands = keras.tree.flatten(layer.input)  # a sole one comes without a list
    if len({tensor.shape for tensor in summands}) > 1:
        # Summed from left to right, so that a sum on the way can be smaller than the output.
        raise ValueError(
            f"Layer {layer.name!r} adds {[tensor.shape for tensor in summands]}; only equal shapes are counted."
        )
    return (len(summands) - 1) * _elements(layer.output)


def _multiply_adds(layer) -> int:
    """Each output element is a sum over the axes of the kernel that do not lead to the output's channels."""
    # Kernels are [height, width, channels / groups, filters] or [inputs, units]; a depthwise one is
    # [height, width, channels, multiplier], and its channels are not summed over.
    summed = 2 if isinstance(layer, layers.DepthwiseConv2D) else -1
    return _elements(layer.output) * math.prod(layer.kernel.shape[:summed])


def _flops_per_activation(layer) -> int:
    name = keras.activations.serialize(layer.activation)
    if name not in FLOPS_PER_ACTIVATION:
        raise ValueError(
            f"Layer {layer.name!r} has the activation {name!r}; the FLOPs of {', '.join(FLOPS_PER_ACTIVATION)} are "
            "known here. count_flops counts any model as a whole."
        )
    return FLOPS_PER_ACTIVATION[name]


def _elements(tensor) -> int:
    return math.prod(tensor.shape[1:])


def _names(kinds) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _check_model(model: keras.Model) -> None:
    check_input_shape_known(model)
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"The model {model.name!r} takes {tensor.name!r} of shape {tensor.shape}; FLOPs depend on every size "
                "but the batch's. Build the model with a fixed input shape."
            )


def _check_batch_size(batch_size: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1.")


def _quiet_float_operation() -> dict:
    """The profiler's options for counting FLOPs, without the report it prints to stdout."""
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    return tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build()


@contextmanager
def _without_tensorflow_warnings() -> Iterator[None]:
    """The profiler's own formulas call a deprecated function, which TensorFlow reports on stderr."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _WithListShapes(keras.Model):
    """`model` with inputs whose shapes are lists: keras-flops writes `[batch_size] + shape[1:]`, Keras 3 has tuples."""

    def __init__(self, model: keras.Model):
        super().__init__(name="with_list_shapes")
        self.model = model

    @property
    def inputs(self) -> list:
        return [SimpleNamespace(shape=list(tensor.shape), dtype=tensor.dtype) for tensor in self.model.inputs]

    def call(self, inputs):
        return _infer(self.model, inputs)


@contextmanager
def _keras_flops() -> Iterator[Callable]:
    """`keras_flops.get_flops`, usable beside today's TensorFlow and quiet while this context is open.

    Importing keras-flops 0.1.2 registers FLOPs formulas, among them AddV2's, which today's TensorFlow registers itself:
    a KeyError. Here it registers into an empty registry, to which TensorFlow's own formulas are then added (they win).
    On leaving, everything is as it was: TensorFlow's registry, its profiler's options and the loaded modules, so that
    what `count_flops` counts never depends on whether keras-flops was here.
    """
    import tensorflow.python.profiler.internal.flops_registry  # noqa: F401  must fill the real registry, not ours
    from tensorflow.python.framework import ops, registry

    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    quiet = _quiet_float_operation()
    original_registry, original_options = ops._stats_registry, builder.float_operation
    modules_before = set(sys.modules)
    own_registry = registry.Registry("statistical functions")
    try:
        ops._stats_registry = own_registry
        from keras_flops import get_flops

        own_registry._registry.update(original_registry._registry)
        builder.float_operation = staticmethod(lambda: quiet)
        with _without_tensorflow_warnings():
            yield get_flops
    finally:
        ops._stats_registry = original_registry
        builder.float_operation = staticmethod(original_options)
        for name in set(sys.modules) - modules_before:
            if name.partition(".")[0] == "keras_flops":
                del sys.modules[name]
