"""Other questions put to the same images: two classes of five digits each, or a digit that is left out."""

from dataclasses import replace

import numpy as np

from utils.data.dataset import Dataset, Split


def _in_all_splits(data: Dataset, change) -> dict[str, Split]:
    return {name: change(getattr(data, name)) for name in ("train", "validation", "test")}


def halves(data: Dataset) -> Dataset:
    """Two classes, the lower and the upper half of the classes, which become the known subclasses.

    Of the digits: 0 to 4 against 5 to 9, the binary task of Müller, Kornblith, Hinton (arXiv:2002.03936).
    """
    middle, names = data.num_classes // 2, data.class_names

    def relabelled(split):
        return replace(split, labels=(split.labels >= middle).astype(np.int32), subclasses=split.labels)

    return replace(
        data,
        joined=None,
        name=f"{data.name} in two halves",
        source=f"{data.source}, as two classes",
        class_names=(f"{names[0]} to {names[middle - 1]}", f"{names[middle]} to {names[-1]}"),
        **_in_all_splits(data, relabelled),
    )


def without_class(data: Dataset, label: int) -> Dataset:
    """The same data, with no image of one class to train or choose on; the test split keeps all classes.

    Hinton, Vinyals, Dean (arXiv:1503.02531) left out the 3, so that the student could know it from the teacher only.
    """

    def left(split):
        return split.take(np.flatnonzero(split.labels != label))

    return replace(
        data,
        joined=None,
        name=f"{data.name} without {data.class_names[label]}",
        source=f"{data.source}, none of class {data.class_names[label]} to train on",
        **(_in_all_splits(data, left) | {"test": data.test}),
    )
