"""MNIST: from data/mnist.npz, else by Keras's download, else the embedded stand-in.

LeCun, Cortes, Burges: the MNIST database of handwritten digits.
"""

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from utils.data.dataset import Dataset, Split, stratified
from utils.data.download import giving_up
from utils.data.standin import load_digits_standin
from utils.settings import settings

SOURCES = ("auto", "mnist", "standin")
SHAPES = {"x_train": (60000, 28, 28), "y_train": (60000,), "x_test": (10000, 28, 28), "y_test": (10000,)}
# sha256 of the bytes of the four arrays in the order of SHAPES, all as uint8
SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
MAX_BYTES = 64 * 10**6  # the arrays take 55 MB unpacked; labels may be wider than one byte
VALIDATION = 5000
SEED = 0
URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"


def load_mnist(source: str = "auto", folder: str | os.PathLike | None = None) -> Dataset:
    """MNIST as 55,000 + 5,000 + 10,000 images, uint8 [n, 28, 28, 1]; validation is stratified, with a fixed seed.

    Args:
        source: "mnist": mnist.npz in `folder` (used wherever it exists, an error if it is bad), else Keras's
            download, else a FileNotFoundError. "standin": scikit-learn's digits. "auto": the first, or else the
            second; one printed line says which.
        folder: where mnist.npz is looked for; None means the data folder of the settings.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; it can be one of {SOURCES}")
    if source == "standin":
        return load_digits_standin()
    path = Path(settings.data if folder is None else folder) / "mnist.npz"
    if os.path.lexists(path):  # a dangling link counts: it is there, and bad
        dataset, origin = _read(path), path.name
    else:
        try:
            dataset, origin = _download(), "Keras's download"
        except Exception as error:  # no network, a proxy's answer, a full disk: the way out is the same
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if source == "mnist":
                raise FileNotFoundError(
                    f"MNIST was asked for, but there is no {path}, and the download failed ({reason}). "
                    f'Save {URL} as that file, or take source="standin".'
                ) from error
            print(
                "DATA: NOT MNIST but the digits stand-in; its numbers are not MNIST's. "
                f"There is no mnist.npz in the data folder, and the download failed ({reason})."
            )
            return load_digits_standin()
    if source == "auto":
        print(f"DATA: {dataset.source}, from {origin}.")
    return dataset


def _bad(where: str, found: str) -> ValueError:
    return ValueError(
        f"{where} is not MNIST: {found}. Delete it, and MNIST is downloaded again; "
        f"or replace it by {URL} or any npz of the same arrays {', '.join(SHAPES)}."
    )


def _read(path: Path) -> Dataset:
    """MNIST from an npz file; whatever is wrong with the file becomes one kind of error."""
    try:
        return _dataset(_unpack(path))
    except zipfile.BadZipFile as error:
        with path.open("rb") as file:
            glimpse = f"{path.stat().st_size:,} bytes that begin with {file.read(24)!r}"
        raise _bad(str(path), f"it is damaged, truncated or no npz at all ({error}; {glimpse})") from error
    except ValueError as error:
        raise _bad(str(path), str(error)) from error
    except (OSError, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted, or unknown compression
        raise _bad(str(path), f"it cannot be read ({type(error).__name__}: {error})") from error


def _unpack(path: Path) -> dict[str, np.ndarray]:
    """The four arrays. What a member claims to be is checked before its data are read; nothing is unpickled."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        missing = [key for key in SHAPES if key not in members]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)} and holds {', '.join(members) or 'nothing'}")
        size = sum(members[key].file_size for key in SHAPES)
        if size > MAX_BYTES:
            raise ValueError(f"it unpacks to {size / 1e6:,.0f} MB, where uint8 images and labels take 55 MB")
        for key in SHAPES:
            with archive.open(members[key]) as stream:
                _check_form(key, *_header(stream))
            with archive.open(members[key]) as stream:
                arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _header(stream) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an npy stream declares."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array is stored as npy version {version}, expected (1, 0) or (2, 0)")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


def _download() -> Dataset:
    """MNIST from Keras, which keeps its copy in ~/.keras; checked like a file."""
    import keras  # late: whoever has the file should not wait for this import

    with giving_up():
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    arrays = dict(zip(SHAPES, (x_train, y_train, x_test, y_test), strict=True))
    try:
        for key, array in arrays.items():
            _check_form(key, array.shape, array.dtype)
        return _dataset(arrays)
    except ValueError as error:
        raise _bad("Keras's copy of mnist.npz (~/.keras/datasets)", str(error)) from error


def _check_form(key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if shape != SHAPES[key]:
        raise ValueError(f"{key} has shape {shape}, expected {SHAPES[key]}")
    images = key.startswith("x")
    if not (dtype == np.uint8 if images else dtype.kind in "iu"):
        raise ValueError(f"{key} is of type {dtype}, expected {'uint8' if images else 'integers'}")


def _dataset(arrays: dict[str, np.ndarray]) -> Dataset:
    """Check the values of arrays of the right form, then split them."""
    sha = hashlib.sha256()
    for key in SHAPES:
        low, high = arrays[key].min(), arrays[key].max()
        if key.startswith("y") and (low < 0 or high > 9):
            raise ValueError(f"the labels {key} run from {low} to {high}, expected 0 to 9")
        sha.update(np.ascontiguousarray(arrays[key], np.uint8))
    if sha.hexdigest() != SHA256:
        raise ValueError(
            f"the shapes are right, but the values differ (sha256 {sha.hexdigest()[:16]}…, not {SHA256[:16]}…)"
        )
    whole, test = (
        Split(
            arrays[f"x_{part}"][..., np.newaxis],
            arrays[f"y_{part}"].astype(np.int32),
            np.arange(len(arrays[f"y_{part}"])),
        )
        for part in ("train", "test")
    )
    validation, train = stratified(whole.labels, VALIDATION, SEED)
    return Dataset(
        name="MNIST",
        source="MNIST, 60,000 + 10,000",
        class_names=tuple("0123456789"),
        train=whole.take(train),
        validation=whole.take(validation),
        test=test,
    )
