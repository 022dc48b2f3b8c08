"""The networks of the assignment: teacher, student and an assistant between them, for MNIST and for MHIST.

Every model takes float32 images [b, h, w, c] in [0, 1] and returns float32 logits [b, outputs]: no model ends in a
softmax, because a distillation loss needs the logits. Weights start as Keras's defaults (Glorot uniform, zero biases)
and follow `keras.utils.set_random_seed`, so that the same seed set just before gives the same network. Counts in the
docstrings are for 10 and for 2 outputs; FLOPs are the TensorFlow profiler's for one image (see `utils.cost`).
"""

import os
from pathlib import Path

import keras
from keras import layers

IMAGE_SHAPE = (28, 28, 1)
DROPOUT = 0.2  # before the last layer of Task 2's networks


def mnist_teacher(outputs: int = 10) -> keras.Model:
    """The convolutional teacher of the assignment's Figure 2: 1,011,466 parameters, 22,042,058 FLOPs.

    layer     what it is                     output       parameters
    conv1     Conv 3x3, 32, ReLU             26x26x32            320
    pool1     max pooling 2x2, stride 1      25x25x32
    conv2     Conv 3x3, 64, ReLU             23x23x64         18,496
    pool2     max pooling 2x2, stride 2      11x11x64
    flatten                                  7744
    dropout1  rate 0.5                       7744
    fc        Dense 128, ReLU                128             991,360
    dropout2  rate 0.5                       128
    logits    Dense, no activation           outputs           1,290

    `outputs` is at least 1: 10 for the digits, more for a head of subclasses.
    """
    return _convolutional_network("mnist_teacher", filters=(32, 64), outputs=outputs)


def mnist_student(outputs: int = 10) -> keras.Model:
    """The fully connected student of the assignment's Figure 3: 1,238,730 parameters, 2,475,882 FLOPs.

    layer     what it is                     output       parameters
    flatten                                  784
    fc1       Dense 784, ReLU                784             615,440
    fc2       Dense 784, ReLU                784             615,440
    logits    Dense, no activation           outputs           7,850

    It has 22% more parameters than the teacher and needs 8.9 times fewer FLOPs: it saves arithmetic, not memory.
    `outputs` is at least 1.
    """
    _check_outputs(outputs)
    return _chain(
        "mnist_student",
        layers.Flatten(name="flatten"),
        layers.Dense(784, activation="relu", name="fc1"),
        layers.Dense(784, activation="relu", name="fc2"),
        layers.Dense(outputs, name="logits"),
    )


def mnist_assistant(outputs: int = 10) -> keras.Model:
    """The teacher at half its width, as a teacher assistant: 501,834 parameters, 6,147,114 FLOPs.

    layer     what it is                     output       parameters
    conv1     Conv 3x3, 16, ReLU             26x26x16            160
    pool1     max pooling 2x2, stride 1      25x25x16
    conv2     Conv 3x3, 32, ReLU             23x23x32          4,640
    pool2     max pooling 2x2, stride 2      11x11x32
    flatten                                  3872
    dropout1  rate 0.5                       3872
    fc        Dense 128, ReLU                128             495,744
    dropout2  rate 0.5                       128
    logits    Dense, no activation           outputs           1,290

    Its FLOPs lie between the teacher's and the student's; its parameters lie below both, since the student has the
    most. `outputs` is at least 1. The idea: Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant,
    AAAI 2020; the widths are this project's choice.
    """
    return _convolutional_network("mnist_assistant", filters=(16, 32), outputs=outputs)


def mhist_teacher(outputs: int = 2, size: int = 224, weights: str | os.PathLike | None = None) -> keras.Model:
    """ResNet50V2 (He et al. 2016b), global average pooling, dropout, Dense: 23,568,898 parameters.

    Images are float32 [b, size, size, 3] in [0, 1], size at least 32; the network's own scaling, to [-1, 1], is inside.
    Batch normalisation is in inference mode and its scale and shift stay as they are, in every phase: with batches of
    32 the statistics of a batch are too rough to replace those of pretraining, and features that do not depend on their
    batch can be computed once.

    weights   of the base: None for random ones, "imagenet" for Keras's download, or a file. See `utils.pretraining`.
    """
    return _transferred("mhist_teacher", keras.applications.ResNet50V2, _to_plus_minus_one, outputs, size, weights)


def mhist_student(outputs: int = 2, size: int = 224, weights: str | os.PathLike | None = None) -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018) with the same head as the teacher: 2,260,546 parameters."""
    return _transferred("mhist_student", keras.applications.MobileNetV2, _to_plus_minus_one, outputs, size, weights)


def mhist_assistant(outputs: int = 2, size: int = 224, weights: str | os.PathLike | None = None) -> keras.Model:
    """DenseNet121 (Huang et al. 2017), between the two in size: 7,039,554 parameters. It was pretrained on images
    standardised by ImageNet's mean and deviation, and so does that inside."""
    return _transferred("mhist_assistant", keras.applications.DenseNet121, _standardised, outputs, size, weights)


def layers_in_order(model: keras.Model) -> list:
    """All layers after the input, in the order of computation; in a functional model also what is no layer (`x + y`).

    A ValueError says so if the model doesn't know its input shape, or if it uses a layer more than once: whoever counts
    or draws layer by layer would miss the second use.
    """
    check_input_shape_known(model)
    if isinstance(model, keras.Sequential):
        return model.layers
    for entry in model.get_config()["layers"]:
        if len(entry["inbound_nodes"]) > 1:
            raise ValueError(
                f"Layer {entry['name']!r} is used {len(entry['inbound_nodes'])} times in the model {model.name!r}; "
                "counting or drawing it layer by layer needs each layer used once."
            )
    return [operation for operation in model.operations if not isinstance(operation, layers.InputLayer)]


def check_input_shape_known(model: keras.Model) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            f"Got {model!r} instead of a Sequential or functional Keras model that knows its input shape. "
            "Start a Sequential model with keras.Input(shape)."
        )


def _convolutional_network(name: str, *, filters: tuple[int, int], outputs: int) -> keras.Model:
    _check_outputs(outputs)
    return _chain(
        name,
        layers.Conv2D(filters[0], 3, activation="relu", name="conv1"),
        layers.MaxPooling2D(2, strides=1, name="pool1"),
        layers.Conv2D(filters[1], 3, activation="relu", name="conv2"),
        layers.MaxPooling2D(2, strides=2, name="pool2"),
        layers.Flatten(name="flatten"),
        layers.Dropout(0.5, name="dropout1"),
        layers.Dense(128, activation="relu", name="fc"),
        layers.Dropout(0.5, name="dropout2"),
        layers.Dense(outputs, name="logits"),
    )


def _chain(name: str, *stack: layers.Layer) -> keras.Model:
    """A functional model, not a Sequential one, so that `model.input` exists for cutting out a part of it."""
    image = x = keras.Input(IMAGE_SHAPE, name="image")
    for layer in stack:
        x = layer(x)
    return keras.Model(image, x, name=name)


def _to_plus_minus_one(image):
    return layers.Rescaling(2.0, offset=-1.0, name="scaling")(image)


def _standardised(image):
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return layers.Normalization(mean=mean, variance=[d**2 for d in deviation], name="scaling")(image)


def _transferred(name: str, application, scaled, outputs: int, size: int, weights) -> keras.Model:
    """One flat model, not a base inside another: so that every layer can be tapped, counted and explained by name."""
    _check_outputs(outputs)
    if size < 32:
        raise ValueError(f"size is {size}; {application.__name__} halves an image five times and needs 32 pixels.")
    image = keras.Input((size, size, 3), name="image")
    known = weights == "imagenet"
    base = application(include_top=False, weights="imagenet" if known else None, input_tensor=scaled(image))
    if weights is not None and not known:
        _load(base, Path(weights), application.__name__)
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    x = layers.GlobalAveragePooling2D(name="pool")(base.output)
    x = layers.Dropout(DROPOUT, name="dropout")(x)
    return keras.Model(image, layers.Dense(outputs, name="logits")(x), name=name)


def _load(base: keras.Model, path: Path, architecture: str) -> None:
    """Weights without top from a file, whole or not at all."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}. Name one that is there, or take weights=None.")
    try:
        base.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path.name} does not fit {architecture} without its top ({reason}). It takes a Keras file of that "
            "network, made with include_top=False."
        ) from error


def _check_outputs(outputs: int) -> None:
    if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
        raise ValueError(f"outputs is {outputs!r}; it must be a whole number of at least 1, one logit per class.")
