"""What every loader returns: three splits of labelled images that know where they came from."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from sklearn.model_selection import train_test_split


def stratified(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `size` of len(labels) positions so that each class keeps its share to within one image.

    Args:
        labels: integers [n].
        size: how many to choose, in [number of classes, n]; what is left over is empty or holds every class too.
        seed: the same seed chooses the same positions.

    Returns:
        (chosen [size], rest [n - size]), both int64 and ascending, so that a part keeps the order of the whole.
    """
    everything = np.arange(len(labels))
    if size == len(labels):
        return everything, everything[:0]
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels) - classes:
        raise ValueError(
            f"cannot take {size:,} of {len(labels):,} images of {classes} classes, stratified: "
            f"ask for all {len(labels):,} or for {classes:,} to {len(labels) - classes:,}"
        )
    chosen, rest = train_test_split(everything, train_size=size, stratify=labels, random_state=seed)
    return np.sort(chosen), np.sort(rest)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()  # a view, so that the caller's own array stays as it was
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels; the arrays are read-only.

    Attributes:
        images: uint8 [n, h, w, c], n at least 1.
        labels: int32 [n].
        rows: int64 [n], the row of the file that each image came from, or None where that is not known.
        subclasses: int32 [n], a finer label of each image, or None where there is none.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray | None = None
    subclasses: np.ndarray | None = None

    def __post_init__(self):
        for name, dtype, rank in (
            ("images", np.uint8, 4), ("labels", np.int32, 1), ("rows", np.int64, 1), ("subclasses", np.int32, 1)
        ):  # fmt: skip
            array = getattr(self, name)
            if name in ("rows", "subclasses") and array is None:
                continue
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != rank:
                found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                form = "[n, h, w, c]" if rank == 4 else "[n]"
                raise ValueError(f"{name} must be a NumPy array {np.dtype(dtype).name} {form}, got {found}")
            if len(array) != len(self.images):
                raise ValueError(f"{len(self.images):,} images but {len(array):,} {name}: there must be one each")
            object.__setattr__(self, name, _read_only(array))
        if not self.images.size:
            raise ValueError(f"a split needs at least one image, got images of shape {self.images.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: np.ndarray) -> "Split":
        """The images at `positions` (int [k]), in that order."""
        rows, subclasses = (None if part is None else part[positions] for part in (self.rows, self.subclasses))
        return Split(self.images[positions], self.labels[positions], rows, subclasses)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the sha256 of the arrays with their types and shapes: changes if any value does."""
        sha = hashlib.sha256()
        for array in (self.images, self.labels, self.rows, self.subclasses):
            if array is not None:
                sha.update(f"{array.dtype.str}{array.shape}".encode())
                sha.update(np.ascontiguousarray(array))
        return sha.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set in three splits. Choices are made on train and validation; test is for reporting only.

    Attributes:
        name: short, for titles and tables.
        source: what the images are and how many, e.g. "MNIST, 60,000 + 10,000"; stands beside every number.
        class_names: label k means class_names[k].
        train, validation, test: disjoint; images of one shape; labels in [0, len(class_names)).
        standin: True where the images only stand in for the real ones.
        joined: train and validation together, where they already lie so; else they are put together when needed.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    standin: bool = False
    joined: Split | None = None

    def __post_init__(self):
        shape = self.train.images.shape[1:]
        for name, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            low, high = split.labels.min(), split.labels.max()
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"{self.name}: labels of the {name} split run from {low} to {high}, "
                    f"but {self.num_classes} classes need 0 to {self.num_classes - 1}"
                )
            if split.images.shape[1:] != shape:
                raise ValueError(
                    f"{self.name}: images of the {name} split are {split.images.shape[1:]}, those of train {shape}"
                )
        rows = self.train.rows, self.validation.rows
        if all(r is not None for r in rows) and np.intersect1d(*rows).size:
            raise ValueError(f"{self.name}: train and validation share images (their rows overlap); split them anew")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def all_train(self) -> Split:
        """Train and validation together, in the order of the original file: what reported runs train on.

        Where the rows are not known: train, then validation.
        """
        if self.joined is not None:
            return self.joined

        def joined(name):
            parts = [getattr(split, name) for split in (self.train, self.validation)]
            return None if any(part is None for part in parts) else np.concatenate(parts)

        rows = joined("rows")
        order = np.arange(len(self.train) + len(self.validation)) if rows is None else np.argsort(rows)
        return Split(joined("images"), joined("labels"), rows, joined("subclasses")).take(order)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of a sha256 over every array of the three splits."""
        digests = (self.train.digest, self.validation.digest, self.test.digest)
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]

    def smaller(self, train: int, validation: int, test: int, seed: int = 0) -> "Dataset":
        """A stratified slice with that many images in each split; its `source` says that it is one."""
        sizes = {"train": train, "validation": validation, "test": test}
        slices = {}
        for name, size in sizes.items():
            split = getattr(self, name)
            if not 1 <= size <= len(split):
                raise ValueError(f"{self.name}: a slice of {size:,} {name} images was asked for, of {len(split):,}")
            slices[name] = split.take(stratified(split.labels, size, seed)[0])
        return replace(
            self, joined=None, source=f"{self.source} (slice of {train:,} + {validation:,} + {test:,})", **slices
        )
