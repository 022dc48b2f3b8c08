"""The stand-in for MHIST: drawn sections of colorectal polyps, stained pink and purple, with seven annotators' votes.

Nobody's tissue is in it. A hidden severity from 0 to 1 governs the shape of the crypts (see polyps_drawing), and each
annotator says SSA the more readily the higher it is; the classes, the votes and the images relate as MHIST's do.
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import betaincinv

from utils import results
from utils.data.dataset import Dataset, Split, stratified
from utils.data.polyps_drawing import draw_polyp
from utils.settings import settings

CLASSES = ("HP", "SSA")
ANNOTATORS, MAJORITY = 7, 4
SIZE = 96
PARTS = ("train", "test")
TRAIN, TEST = 2175, 977  # as many as MHIST has
VALIDATION, SEED = 0.15, 0
# Severity is drawn from two Beta distributions: mostly slight, and the rest widespread. The weights and shapes were
# fitted so that the votes are spread as MHIST's: (share of the second, shape of the first, shape of the second).
SEVERITY = {"train": (0.412, (2.148, 11.92), (1.084, 0.648)), "test": (0.447, (3.182, 16.565), (1.994, 0.727))}
LENIENCY = (-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5)  # of each annotator, on the scale of log-odds
# Two sequences in steps of these, modulo 1, fill the unit square evenly however long they are (Roberts' R2).
STEPS = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True)
class Polyps:
    """Drawn images with all that is known of them: uint8 [n, s, s, 3], crypt masks bool [n, s, s], severity [n] in
    [0, 1] and votes for SSA int32 [n] in 0 to 7."""

    images: np.ndarray
    masks: np.ndarray
    severity: np.ndarray
    votes: np.ndarray


def severities(count: int, part: str, rng: np.random.Generator) -> np.ndarray:
    """Hidden severities [count] in [0, 1], distributed as the votes of MHIST's train or test partition suggest.

    They are spread evenly over the distribution: some hundreds have its shares to within 2 points, fewer nearly so, and
    a larger count begins with the same severities.
    """
    share, first, second = SEVERITY[part]
    place = (rng.random() + STEPS[0] * np.arange(count)) % 1
    in_second = place < share
    within = np.where(in_second, place / share, (place - share) / (1 - share))
    return np.where(in_second, betaincinv(*second, within), betaincinv(*first, within))


def vote(severity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Votes for SSA, int32 [n]: each of seven annotators says SSA with odds of the severity, shifted by leniency.

    How many do is drawn at once, from the distribution of the sum, and evenly, as the severities are.
    """
    clipped = np.clip(severity, 1e-4, 1 - 1e-4)
    odds = np.log(clipped / (1 - clipped))
    chances = np.zeros((len(severity), ANNOTATORS + 1))  # of 0 to 7 votes
    chances[:, 0] = 1
    for leniency in LENIENCY:
        yes = 1 / (1 + np.exp(-odds - leniency))[:, None]
        chances = chances * (1 - yes) + np.roll(chances, 1, axis=1) * yes
    place = (rng.random() + STEPS[1] * np.arange(len(severity))) % 1
    return (place[:, None] > chances.cumsum(axis=1)[:, :-1]).sum(axis=1).astype(np.int32)


def draw_polyps(count: int, *, size: int = SIZE, seed: int = SEED, part: str = "train") -> Polyps:
    """`count` images of size x size pixels, the same for the same arguments; a larger count begins with the same."""
    stream = [seed, PARTS.index(part)]
    severity = severities(count, part, np.random.default_rng([*stream, 0]))
    votes = vote(severity, np.random.default_rng([*stream, 1]))
    images, masks = np.empty((count, size, size, 3), np.uint8), np.empty((count, size, size), bool)
    for i in range(count):
        images[i], masks[i] = draw_polyp(np.random.default_rng([*stream, 2, i]), severity[i], size)
    return Polyps(images, masks, severity, votes)


def load_polyps_standin(train: int = TRAIN, test: int = TEST, size: int = SIZE, cache=None) -> Dataset:
    """The stand-in as a Dataset of MHIST's schema; `subclasses` holds the votes. It is drawn once and kept."""
    splits = {}
    for part, count in zip(PARTS, (train, test), strict=True):
        images, votes = _kept_or_drawn(part, count, size, cache, ("images", "votes"))
        splits[part] = Split(images, (votes >= MAJORITY).astype(np.int32), np.arange(count), votes)
    validation, rest = stratified(splits["train"].subclasses, round(VALIDATION * train), SEED)
    return Dataset(
        name="polyps stand-in",
        source=f"drawn polyps, NOT MHIST, {size} px, {train:,} + {test:,}",
        class_names=CLASSES,
        train=splits["train"].take(rest),
        validation=splits["train"].take(validation),
        test=splits["test"],
        standin=True,
    )


def polyps_truth(part: str, count: int | None = None, size: int = SIZE, cache=None) -> tuple[np.ndarray, np.ndarray]:
    """What load_polyps_standin's images were drawn from: crypt masks bool [n, s, s] and severities [n].

    Args:
        part: "train", which holds the validation split too, or "test". Entry r belongs to the image whose `rows` is r:
            `masks[dataset.validation.rows]` are the masks of the validation split.
        count: of all images of the part, as given to load_polyps_standin; None means as many as MHIST has.
    """
    published = {"train": TRAIN, "test": TEST}
    if part not in published:
        raise ValueError(f"part is {part!r}; it can be 'train', which holds the validation images too, or 'test'.")
    count = published[part] if count is None else count
    return _kept_or_drawn(part, count, size, cache, ("masks", "severity"))


def _kept_or_drawn(part: str, count: int, size: int, cache, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """These arrays of Polyps, from the archive in the cache; it is made where it is missing or damaged."""
    folder, code = Path(cache or settings.cache.parent) / "polyps", results.code_version(draw_polyps)
    path = folder / f"{part}-{count}-{size}-{code}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:  # np.load alone leaves it open
            return tuple(archive[name] for name in names)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return tuple(_drawn(path, part, count, size)[name] for name in names)


def _drawn(path: Path, part: str, count: int, size: int) -> dict[str, np.ndarray]:
    """The arrays of Polyps, drawn and written to an archive that is either not there or whole."""
    arrays = vars(draw_polyps(count, size=size, part=part))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # ends in .npz, or savez would add it
    try:
        np.savez(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return arrays
