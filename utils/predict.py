"""Classifies PNG or JPEG files with an exported student: `python -m utils.predict STUDENT.tflite IMAGE...`

It needs NumPy, Pillow and a LiteRT interpreter (the package ai-edge-litert; without it, TensorFlow's own), and nothing
of the code that trains; only `--explain` needs all of the project. What the student takes and gives stands on the card
beside its files, which `utils.export.export_student` writes.
"""

import argparse
import hashlib
import json
import math
import os
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

CARD = "card.json"
VALUES_AT_ONCE = 250_000  # in a batch: 318 of MNIST's images, 1 of 224x224x3; larger ones take memory, not less time
FIELD, BOX = 28, 20  # MNIST: a digit fills a box of 20x20 pixels, placed in a field of 28x28
DARK = 0.1  # a border darker than this is MNIST's own black one
LEAST_CONTRAST = 0.1  # between ink and paper, of the whole range
MOST_EXPLAINED = 50  # pictures that one drawing holds
LEAST_INK = 0.25  # of the darkest ink; what is paler is paper


class Refused(ValueError):
    """A model or picture that cannot be used; the message says why and what to do."""


class LiteRT:
    """A .tflite file in LiteRT's interpreter.

    Args:
        content: the bytes of the file.
        threads: at least 1.
    """

    def __init__(self, content: bytes, threads: int = 1):
        with native_messages_kept_back():
            self.interpreter = _interpreter_class()(model_content=content, num_threads=threads)
        (self.input,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()
        self.shape = tuple(int(side) for side in self.input["shape_signature"][1:])
        self.batch = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits [n, C] of images [n, H, W, C]: uint8, or float in [0, 1]."""
        images = np.asanyarray(images)
        if images.shape[1:] != self.shape or not len(images):
            raise ValueError(f"Images of shape {images.shape} were given; the file takes [n, *{list(self.shape)}].")
        is_float = np.issubdtype(images.dtype, np.floating)
        if images.dtype != np.uint8 and not (is_float and images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"Images are {images.dtype} from {images.min()} to {images.max()}; uint8, or float in [0, 1], is taken."
            )
        batch = max(1, VALUES_AT_ONCE // math.prod(self.shape))
        return np.concatenate([self.run(self.encode(images[i : i + batch])) for i in range(0, len(images), batch)])

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Images as the file takes them: float, or integers by the file's scale and zero point."""
        images = np.asarray(images, np.float32) / (255 if images.dtype == np.uint8 else 1)
        dtype, (scale, zero) = self.input["dtype"], self.input["quantization"]
        if dtype == np.float32:
            return images.astype(np.float32)
        limits = np.iinfo(dtype)
        return np.clip(np.round(images / scale) + zero, limits.min, limits.max).astype(dtype)

    def run(self, encoded: np.ndarray) -> np.ndarray:
        """Logits float32 [b, C] of one batch from `encode`."""
        if len(encoded) != self.batch:
            with native_messages_kept_back():
                self.interpreter.resize_tensor_input(self.input["index"], encoded.shape)
                self.interpreter.allocate_tensors()
            self.batch = len(encoded)
        self.interpreter.set_tensor(self.input["index"], encoded)
        self.interpreter.invoke()
        found = self.interpreter.get_tensor(self.output["index"])
        scale, zero = self.output["quantization"]
        return found if found.dtype == np.float32 else (found.astype(np.float32) - zero) * np.float32(scale)


class Student:
    """An exported student with its card. The file must be the very one that the card describes.

    Args:
        path: a .tflite file; its card lies beside it.
    """

    def __init__(self, path: str | os.PathLike, threads: int = 1):
        path = Path(path)
        if path.is_dir():
            found = ", ".join(sorted(file.name for file in path.glob("*.tflite"))) or "none"
            raise Refused(f"{path} is a folder: name one of its .tflite files (there: {found}).")
        if not path.is_file():
            raise Refused(f"There is no model {path}. utils.export.export_student writes one.")
        self.card = _read_card(path.parent / CARD)
        known = {entry["file"]: entry for entry in self.card["files"].values()}
        if path.name not in known:
            raise Refused(f"The card beside {path.name} does not describe it, but {', '.join(known)}. Export it again.")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != known[path.name]["sha256"]:
            raise Refused(
                f"{path.name} is not the file that its card describes: its sha256 is {digest[:12]}…, the card says "
                f"{known[path.name]['sha256'][:12]}…. One of them was changed or replaced; export both again."
            )
        self.classes = tuple(self.card["classes"])
        self.threshold = self.card.get("threshold")  # of the second of two classes; without one the likeliest is called
        try:
            self.network = LiteRT(content, threads)
        except Refused:
            raise
        except (ValueError, RuntimeError) as fault:
            raise Refused(
                f"The LiteRT interpreter here cannot load {path.name} ({fault}). Install a newer ai-edge-litert, or "
                "export the student again."
            ) from None
        told = (*self.card["input"]["shape"], len(self.classes))
        if told != (found := (*self.network.shape, int(self.network.output["shape_signature"][-1]))):
            raise Refused(
                f"The card beside {path.name} tells of images {list(told[:-1])} and {told[-1]} classes; the file takes "
                f"{list(found[:-1])} and gives {found[-1]}. Export both again."
            )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits [n, C] of images [n, H, W, C]: uint8, or float in [0, 1]."""
        return self.network.logits(images)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities [n, C] of images [n, H, W, C]: uint8, or float in [0, 1]."""
        logits = self.logits(images).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """A picture on disk as the image [H, W, C], float32 in [0, 1], that the student takes."""
        wanted = self.card["input"]
        return PREPARATIONS[wanted["preparation"]](_open_picture(Path(path)), wanted)

    def call(self, probabilities: np.ndarray) -> np.ndarray:
        """Classes, int [n], from probabilities [n, C]: by the card's threshold if it has one, else the likeliest."""
        if self.threshold is None:
            return probabilities.argmax(axis=-1)
        return (probabilities[:, 1] >= self.threshold).astype(int)

    def classify(self, path: str | os.PathLike) -> dict:
        """Of one picture: "file", "class", "probability" and all "probabilities"; or "file" and "error"."""
        try:
            image = self.read(path)
        except (Refused, OSError) as fault:
            return {"file": str(path), "error": str(fault)}
        (probabilities,) = of_all = self.probabilities(image[None])
        best = int(self.call(of_all)[0])
        return {
            "file": str(path),
            "class": self.classes[best],
            "probability": float(probabilities[best]),
            "probabilities": dict(zip(self.classes, probabilities.tolist(), strict=True)),
        }


def prepare_digit(picture: Image.Image, wanted: dict | None = None) -> np.ndarray:
    """A picture of one digit as MNIST has them: [28, 28, 1], light on black, its centre of mass in the middle.

    LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998: the digit is scaled into a box of 20x20
    with its proportions kept. A picture that is so already, 28x28 with a black border, stays as it is.
    """
    grey = _greyscale(picture)
    edges = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = np.median(edges)
    # The ink lies on the side of the paper's brightness where the picture reaches further.
    ink = paper - grey if paper - grey.min() > grey.max() - paper else grey - paper
    contrast = ink.max()
    if contrast < LEAST_CONTRAST:
        raise Refused(f"nothing stands out from the paper (contrast {contrast:.0%}); a digit in clear ink is needed")
    if grey.shape == (FIELD, FIELD) and edges.mean() < DARK:
        return grey[..., None]
    ink = np.clip(ink / contrast, 0, 1)
    ink[ink < LEAST_INK] = 0
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * BOX / max(ink.shape))) for side in ink.shape)
    ink = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    weights = ink / ink.sum()
    centre = [(weights.sum(axis=1 - axis) * np.arange(ink.shape[axis])).sum() for axis in (0, 1)]
    # To the middle of the field, but never over its edge.
    top, left = (int(np.clip(round(FIELD / 2 - c), 0, FIELD - side)) for c, side in zip(centre, ink.shape, strict=True))
    field = np.zeros((FIELD, FIELD, 1), np.float32)
    field[top : top + height, left : left + width, 0] = np.clip(ink / ink.max(), 0, 1)
    return field


def prepare_exact(picture: Image.Image, wanted: dict) -> np.ndarray:
    """A picture that already is as the card says, [H, W, C]; resized only if the card allows it, and only to scale."""
    height, width, channels = wanted["shape"]
    mode = {1: "L", 3: "RGB"}[channels]
    if mode == "RGB" and picture.mode in ("P", "RGBA") and picture.convert("RGBA").getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")  # the same colours: nothing in it is transparent
    if picture.mode != mode:
        raise Refused(f"the picture's colours are {picture.mode}, but {mode} is needed: save it so")
    if picture.size != (width, height):
        same_form = picture.width * height == picture.height * width
        if not (wanted["resize"] and same_form):
            covers = picture.width >= width and picture.height >= height
            how = "crop it" if covers else "take a larger one"
            if wanted["resize"]:
                unit = math.gcd(width, height)
                how = f"or of that form in another size; crop it to {width // unit}:{height // unit}"
            raise Refused(f"the picture is {picture.width}x{picture.height}; {width}x{height} is needed, {how}")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32).reshape(height, width, channels) / 255


PREPARATIONS = {"digit": prepare_digit, "exact": prepare_exact}


@contextmanager
def native_messages_kept_back() -> Iterator[None]:
    """Keeps back what compiled code writes to stderr, which no Python setting reaches; shows it if the work fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def explain(student: Student, path: str | os.PathLike) -> dict:
    """LIME's map of one picture, for the class that the student sees in it: a row of `plots.ship.explanation`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notes are no answer
    import tensorflow as tf

    from utils import explain as lime

    def network(images, training=False):  # as utils.explain calls models: within a graph
        return tf.numpy_function(student.logits, [images], tf.float32, stateful=False)

    image = student.read(path)
    label = int(student.call(student.probabilities(image[None]))[0])
    digit = student.card["input"]["preparation"] == "digit"
    segmentation = lime.digit_segments if digit else lime.tissue_segments
    background = 0.0 if digit else image.mean(axis=(0, 1))
    found = lime.explain_image({"student": network}, image, [label], segmentation=segmentation, background=background)
    return {
        "name": Path(path).name, "image": image, "map": found.map("student", label), "class": student.classes[label],
        "probability": float(found.probabilities["student"][label]),
    }  # fmt: skip


def draw(pictures: list[dict], note: str, drawn: Path) -> None:
    """What `explain` says of pictures, drawn into one PNG: the whole file or none."""
    import matplotlib.pyplot as plt

    from utils.plots.ship import explanation

    figure = explanation({"pictures": pictures}, note)
    temporary = drawn.with_name(f".{os.getpid()}.{drawn.name}")
    try:
        figure.savefig(temporary, format="png", dpi=150)
        os.replace(temporary, drawn)
    finally:
        plt.close(figure)
        temporary.unlink(missing_ok=True)


def explain_all(student: Student, answers: list[dict], note: str, drawn: Path) -> None:
    """Draws the pictures that were answered; what goes wrong becomes the "error" of the answers it concerns."""
    answered = [answer for answer in answers if "error" not in answer]
    pictures = []
    for answer in answered:
        try:
            pictures.append(explain(student, answer["file"]))
        except (ImportError, ValueError, OSError) as fault:
            answer["error"] = f"it could not be explained: {fault}"
    if pictures:
        try:
            draw(pictures, note, drawn)
        except (ImportError, ValueError, OSError) as fault:
            for answer in answered:
                answer.setdefault("error", f"its explanation could not be written: {fault}")


def _interpreter_class():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            import tensorflow as tf
        except ImportError:
            raise Refused("Neither ai-edge-litert nor TensorFlow is installed: pip install ai-edge-litert.") from None

        def Interpreter(**options):
            with warnings.catch_warnings():  # it says that ai-edge-litert is to be preferred, which is done above
                warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
                return tf.lite.Interpreter(**options)

    return Interpreter


def _read_card(path: Path) -> dict:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"There is no {path}: the card must lie beside the model. Export the model again.") from None
    except ValueError as fault:
        raise Refused(f"{path} is no card: {fault}. Export the model again.") from None
    try:
        wanted = card["input"]
        _, _, channels = wanted["shape"]
        described = {"preparation": wanted["preparation"] in PREPARATIONS, "channels": channels in (1, 3)}
        described["shape"] = wanted["preparation"] != "digit" or list(wanted["shape"]) == [FIELD, FIELD, 1]
        described["classes"] = len(card["classes"]) >= 2
        described["files"] = all(entry["file"] and entry["sha256"] for entry in card["files"].values())
        threshold = card.get("threshold")
        described["threshold"] = threshold is None or (0 <= threshold <= 1 and len(card["classes"]) == 2)
        described["data"] = isinstance(card.get("data", {}), dict)
        described["resize"] = wanted["preparation"] == "digit" or isinstance(wanted["resize"], bool)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise Refused(f"{path} is no card that this version can read ({fault!r}). Export the model again.") from None
    if wrong := [name for name, fits in described.items() if not fits]:
        raise Refused(f"{path} is no card that this version can read (see its {wrong}). Export the model again.")
    return card


def _open_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            return ImageOps.exif_transpose(picture)  # it loads the pixels; a camera held upright turns them
    except FileNotFoundError:
        raise Refused("there is no such file") from None
    except IsADirectoryError:
        raise Refused("it is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise Refused("it is no PNG or JPEG") from None
    # Pillow's many kinds of broken; the last is that of damaged EXIF data.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as fault:
        if isinstance(fault, OSError) and fault.errno:  # of the system, not of the picture
            raise Refused(f"it cannot be read ({fault.strerror})") from None
        raise Refused(f"the picture is broken or too large ({fault})") from None


def _greyscale(picture: Image.Image) -> np.ndarray:
    """Brightness float32 [h, w] in [0, 1]; what is transparent shows white paper."""
    if picture.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would cut off
        return np.asarray(picture, np.float32) / 65535
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("L"), np.float32) / 255


def main(arguments: list[str] | None = None) -> int:
    """0 if all pictures were answered (and explained, if that was asked), 1 if some were not; 2 if there is no model to
    answer with, or the command cannot be understood."""
    parser = argparse.ArgumentParser(prog="python -m utils.predict", description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a .tflite file, its card beside it")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="PNG or JPEG files")
    parser.add_argument("--json", action="store_true", help="answer in JSON, with all probabilities")
    parser.add_argument(
        "--explain", metavar="PNG", type=Path, help="draw what speaks for the class of each IMAGE (LIME)"
    )
    options = parser.parse_args(arguments)
    if options.explain and len(options.images) > MOST_EXPLAINED:
        parser.error(f"--explain draws {MOST_EXPLAINED} pictures at most; {len(options.images)} were given")
    kept = (options.model, Path(options.model).parent / CARD, *options.images)
    if options.explain and options.explain.resolve() in [Path(path).resolve() for path in kept]:
        parser.error(f"--explain: {options.explain} would be overwritten; name another PNG")
    if options.explain and not options.explain.absolute().parent.is_dir():
        parser.error(f"--explain: there is no folder {options.explain.absolute().parent} to write into")
    try:
        student = Student(options.model)
    except (Refused, OSError) as fault:
        print(json.dumps({"error": str(fault)}) if options.json else fault, file=None if options.json else sys.stderr)
        return 2
    data = student.card.get("data", {})
    note = f"This student learned a stand-in, {data.get('source', 'unnamed')}." if data.get("standin") else None
    answers = []
    for path in options.images:
        answer = student.classify(path)
        answers.append(answer)
        if "class" in answer and not options.json:  # at once: what stops a later picture takes no answer away
            rule = "" if student.threshold is None else f" ({student.classes[1]} from {student.threshold:.1%} on)"
            print(f"{answer['file']}: {answer['class']}  {answer['probability']:.1%}{rule}", flush=True)
    if options.explain:
        explain_all(student, answers, note or "", options.explain)
    if options.json:
        rule = {"threshold": student.threshold, "note": note}
        print(json.dumps({"model": options.model, **rule, "answers": answers}, indent=1))
    else:
        errors = [f"{answer['file']}: {answer['error']}" for answer in answers if "error" in answer]
        print(*([note] if note else []), *errors, sep="\n", end="\n" if note or errors else "", file=sys.stderr)
    return int(any("error" in answer for answer in answers))


if __name__ == "__main__":
    sys.exit(main())
