"""Ships a student: LiteRT (TFLite) files in three precisions, each tested as it is, and a card that describes them.

    float32    the model's own numbers; must give its logits to 1e-4
    dynamic    weights in 8 bits, activations in float
    int8       weights and activations in 8 bits, ranges measured on training images; input and output are int8 too

`utils.predict` runs the files and needs nothing of this module.
"""

import hashlib
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from utils import cost, latency, results
from utils.binary import arm_interval, positive_scores
from utils.data import Dataset
from utils.metrics import calibration_error
from utils.predict import CARD, FIELD, PREPARATIONS, LiteRT, native_messages_kept_back
from utils.signals import predict_logits

FORMATS = ("float32", "dynamic", "int8")
CALIBRATION_IMAGES = 500
TOLERANCE = 1e-4  # of float32 logits, absolute up to a logit of 10, then relative to a tenth of the largest


def to_litert(model: keras.Model, formats=FORMATS, calibration: np.ndarray | None = None) -> dict[str, bytes]:
    """{format: content of a .tflite file}. The batch size stays open.

    Args:
        model: takes float32 images [b, H, W, C] in [0, 1], gives logits [b, C].
        formats: some of FORMATS.
        calibration: uint8 images [n, H, W, C] that show int8 the range of every activation; from the training split.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise ValueError(f"formats is {formats!r}; it can hold some of {FORMATS}.")
    if "int8" in formats and (calibration is None or not len(calibration)):
        raise ValueError("int8 needs images to calibrate on: pass uint8 training images [n, H, W, C] as `calibration`.")
    if "int8" in formats and (calibration.dtype != np.uint8 or calibration.shape[1:] != model.input_shape[1:]):
        raise ValueError(  # others would give ranges that no image has, and no error
            f"calibration is {calibration.dtype} {list(calibration.shape)}; uint8 [n, *{list(model.input_shape[1:])}] "
            "is needed."
        )
    image = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")
    inference = tf.function(lambda image: model(image, training=False)).get_concrete_function(image)
    # Its weights as constants: exporting the Keras model traces it several times, and takes up to four times as long.
    frozen = convert_variables_to_constants_v2(inference)
    with native_messages_kept_back():
        return {name: _convert(frozen, name, calibration) for name in formats}


def _convert(frozen, name: str, calibration: np.ndarray | None) -> bytes:
    # With any module, or else the file has no signature, by which others call it.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "int8":
        converter.representative_dataset = lambda: ([image[None].astype(np.float32) / 255] for image in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]  # nothing is left in float
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        # The converter asks for the statistics of quantisation-aware training, which there was none of.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
        return converter.convert()


def export_student(
    model: keras.Model,
    folder: str | os.PathLike,
    data: Dataset,
    *,
    preparation: str = "digit",
    resize: bool = False,
    threshold: float | None = None,
    formats=FORMATS,
    calibrate_on: int = CALIBRATION_IMAGES,
    rounds: int = 15,
    origin: dict | None = None,
) -> dict:
    """Write MODEL-FORMAT.tflite for each format, and their card, into a folder; return the card.

    Each file runs over the whole test split before anything is written. A float32 file whose logits are not the
    model's is an error.

    Args:
        model: trained; takes float32 images [b, H, W, C] in [0, 1], gives a logit for each class of the data.
        folder: made if need be; files of an earlier export are replaced.
        data: calibrates int8 (train) and says what the files are worth (test).
        preparation: how `utils.predict` makes a picture fit: "digit" (cut out, inverted, centred as MNIST's) or
            "exact" (it must fit already).
        resize: with "exact", whether a picture of the right proportions may be scaled.
        threshold: of two classes, the probability of the second from which on it is called; chosen on validation. By
            default the likelier is called.
        calibrate_on: how many training images; at least 1.
        rounds: of the measurement of latency.
        origin: what else the card should say of the model: its method, teacher, seed.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"A {type(model).__name__} was given, not a Keras model. Of a Run, pass run.model().")
    shape = tuple(model.input_shape[1:])
    if shape != data.test.images.shape[1:] or model.output_shape != (None, data.num_classes):
        raise ValueError(
            f"The model {model.name!r} makes {model.output_shape} of {model.input_shape}, but {data.name} has images "
            f"{data.test.images.shape[1:]} of {data.num_classes} classes."
        )
    if preparation not in PREPARATIONS:
        raise ValueError(f"preparation is {preparation!r}; it can be one of {tuple(PREPARATIONS)}.")
    if preparation == "digit" and shape != (FIELD, FIELD, 1):
        raise ValueError(
            f"preparation is 'digit', which makes {FIELD} x {FIELD} grey pixels of a picture, but the model takes "
            f"{shape}. Pass preparation='exact'."
        )
    if threshold is not None and not (data.num_classes == 2 and 0 <= threshold <= 1):
        raise ValueError(f"threshold is {threshold!r} for {data.num_classes} classes; it is a probability, of two.")
    if rounds < 3:
        raise ValueError(f"rounds is {rounds}; a spread of latency needs 3 or more.")
    folder = Path(folder)
    other = (results.read_json(folder / CARD) or {}).get("model", model.name)
    if other != model.name:
        raise ValueError(
            f"{folder} holds the student {other!r} and its card, which tells of one model. Export "
            f"{model.name!r} into a folder of its own."
        )
    calibration = calibration_images(data.train.images, calibrate_on) if "int8" in formats else None
    contents = to_litert(model, formats, calibration)
    reference = predict_logits(model, data.test.images)
    entries = {}
    for name, content in contents.items():
        entries[name] = _describe(content, data.test, reference, threshold) | {"file": f"{model.name}-{name}.tflite"}
    _check_float32(entries.get("float32"), reference)
    for row in latency.measure(contents, batch_sizes=(1,), threads=(1,), rounds=rounds):
        entries[row["model"]]["latency_ms"] = {name: row[name] for name in ("median", "low", "high")}
    card = {
        "model": model.name,
        "origin": origin or {},
        "input": {
            "shape": shape,
            "range": [0, 1],
            "layout": "batch, height, width, channel; int8 files take round(x / scale) + zero point",
            "preparation": preparation,
            "resize": resize,
        },
        "output": "logits, one for each class; a softmax gives probabilities",
        "classes": data.class_names,
        "threshold": threshold,
        "data": {"name": data.name, "source": data.source, "standin": data.standin, "digest": data.digest},
        "calibrated_on": min(calibrate_on, len(data.train)) if "int8" in formats else 0,
        "cost": _cost(model),
        "keras": _quality(data.test.labels, reference, threshold),
        "latency_conditions": "LiteRT, batch 1, one thread, median and quartiles over interleaved rounds",
        "files": entries,
        "versions": results.versions(),
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with results.whole_file(folder / entries[name]["file"]) as temporary:
            temporary.write_bytes(content)
    results.write_json(folder / CARD, card)  # last: a file whose card is another's is refused
    return results.read_json(folder / CARD)


def table(card: dict) -> pd.DataFrame:
    """A row for Keras and for each file: what it scores on the test split, its size, its latency, how far it is off."""
    score, title = ("auc", "test AUC") if "auc" in card["keras"] else ("accuracy", "test accuracy")

    def quality(found: dict) -> dict:
        interval = {"95% over images": "[{:.3f}, {:.3f}]".format(*found["auc_interval"])} if score == "auc" else {}
        return {title: found[score]} | interval

    rows = {"Keras": quality(card["keras"])}
    for name, entry in card["files"].items():
        rows[name] = quality(entry["metrics"]) | {
            "size, MB": entry["bytes"] / 1e6,
            "latency, ms": entry["latency_ms"]["median"],
            "largest difference of a logit": entry["largest_difference"],
        }
    return pd.DataFrame(rows).T


def _describe(content: bytes, split, reference: np.ndarray, threshold: float | None) -> dict:
    network = LiteRT(content)
    logits = network.logits(split.images)
    scale, zero = network.input["quantization"]
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {"dtype": np.dtype(network.input["dtype"]).name, "scale": scale, "zero_point": zero},
        "metrics": _quality(split.labels, logits, threshold),
        "largest_difference": np.abs(logits - reference).max(),
    }


def _quality(labels: np.ndarray, logits: np.ndarray, threshold: float | None) -> dict:
    called = logits.argmax(axis=-1) if threshold is None else (positive_scores(logits) >= threshold).astype(int)
    found = {
        "images": len(labels),
        "accuracy": np.mean(called == labels),
        "calibration_error": calibration_error(labels, logits),
    }
    if logits.shape[-1] == 2:
        auc = arm_interval(labels, positive_scores(logits)[None])
        found |= {"auc": auc["mean"], "auc_interval": [auc["low"], auc["high"]]}
        found["balanced_accuracy"] = balanced_accuracy_score(labels, called)
    return found


def _cost(model: keras.Model) -> dict:
    found = {
        "parameters": cost.count_parameters(model),
        "multiply_adds": cost.count_multiply_adds(model),
        "flops": cost.count_flops(model),
    }
    try:
        found["activation_bytes"] = 4 * sum(row["activations"] for row in cost.cost_by_layer(model))
    except ValueError:  # a layer that cost_by_layer has no formula for
        found["activation_bytes"] = None
    return found


def _check_float32(entry: dict | None, reference: np.ndarray) -> None:
    allowed = TOLERANCE * max(1, np.abs(reference).max() / 10)
    if entry and not entry["largest_difference"] <= allowed:
        raise ValueError(
            f"The float32 file is not the model: a logit differs by {entry['largest_difference']:.2g}, and "
            f"{allowed:.2g} is allowed. Nothing was written. Does the model do something else in inference mode?"
        )


def calibration_images(images: np.ndarray, number: int = CALIBRATION_IMAGES) -> np.ndarray:
    """So many images, evenly over a training split, to show int8 the range of every activation."""
    if number < 1:
        raise ValueError(f"calibrate_on is {number}; int8 needs at least 1 training image.")
    return images[np.linspace(0, len(images) - 1, min(number, len(images))).astype(int)]
