"""The stand-in for MHIST: drawn sections of colorectal polyps, stained pink and purple, with seven annotators' votes.

Nobody's tissue is in it. What tells the classes apart is drawn after the published criteria: in sessile serrated
lesions the crypts are serrated down to their base, dilated, and branch there; in hyperplastic polyps serration is
slight and the crypts are straight and alike. A hidden severity from 0 to 1 governs these three by degrees. Everything
else (stain, light, blur, number and turn of the crypts, how much of the image is lumen) varies without regard to it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from utils import results
from utils.data.dataset import Dataset, Split, stratified
from utils.settings import settings

CLASSES = ("HP", "SSA")
ANNOTATORS, MAJORITY = 7, 4
SIZE = 96
TRAIN, TEST = 2175, 977  # as many as MHIST has
VALIDATION, SEED = 0.15, 0
# Severity is drawn from two Beta distributions: mostly slight, and the rest widespread. The weights and shapes were
# fitted so that the votes are spread as MHIST's: (share of the second, shape of the first, shape of the second).
SEVERITY = {"train": (0.412, (2.148, 11.92), (1.084, 0.648)), "test": (0.447, (3.182, 16.565), (1.994, 0.727))}
LENIENCY = np.array([-0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5])  # of each annotator, on the scale of log-odds
HEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.95, 0.28])  # what each absorbs of red, green, blue


@dataclass(frozen=True)
class Polyps:
    """Drawn images with all that is known of them: uint8 [n, s, s, 3], crypt masks bool [n, s, s], severity [n] in
    [0, 1] and votes for SSA int32 [n] in 0 to 7."""

    images: np.ndarray
    masks: np.ndarray
    severity: np.ndarray
    votes: np.ndarray


def severities(count: int, part: str, rng: np.random.Generator) -> np.ndarray:
    """Hidden severities [count] in [0, 1], distributed as the votes of MHIST's train or test partition suggest."""
    share, first, second = SEVERITY[part]
    from_second = rng.permutation(count) < round(share * count)
    return np.where(from_second, rng.beta(*second, count), rng.beta(*first, count))


def vote(severity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Votes for SSA, int32 [n]: each of seven annotators says SSA with odds of the severity, shifted by leniency."""
    clipped = np.clip(severity, 1e-4, 1 - 1e-4)
    odds = np.log(clipped / (1 - clipped))[:, None] + LENIENCY
    return (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).sum(axis=1).astype(np.int32)


def draw_polyps(count: int, *, size: int = SIZE, seed: int = SEED, part: str = "train") -> Polyps:
    """`count` images of size x size pixels, the same for the same arguments; image i does not depend on `count`'s
    other images but through the shares of severities."""
    rng = np.random.default_rng([seed, ("train", "test").index(part), count])
    severity = severities(count, part, rng)
    votes = vote(severity, rng)
    images, masks = np.empty((count, size, size, 3), np.uint8), np.empty((count, size, size), bool)
    for i in range(count):
        images[i], masks[i] = draw_polyp(np.random.default_rng([seed, part == "test", i]), severity[i], size)
    return Polyps(images, masks, severity, votes)


def draw_polyp(rng: np.random.Generator, severity: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [size, size, 3] and its crypt mask bool [size, size]."""
    stroma = _stroma(rng, size)
    epithelium, lumen, nuclei, vacuoles = _crypts(rng, severity, size)
    crypt = np.maximum(epithelium, lumen)
    tissue = epithelium * (1 - lumen)
    outside = 1 - crypt
    purple = outside * stroma[0] + tissue * (0.42 + 0.9 * nuclei) * (1 - 0.6 * vacuoles)
    pink = outside * stroma[1] + tissue * 0.5 * (1 - 0.6 * vacuoles) + lumen * 0.04
    return _stained(rng, purple, pink, size), crypt > 0.5


def _noise(rng, size: int, scale: float) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 with blobs of `scale` (in units of the image)."""
    field = gaussian_filter(rng.standard_normal((size, size)).astype(np.float32), scale * size, mode="wrap")
    return (field - field.mean()) / (field.std() + 1e-6)


def _stroma(rng, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Densities of the two stains between the crypts: fibres, and scattered nuclei."""
    fibres = 0.5 + 0.08 * _noise(rng, size, 0.03) + 0.05 * _noise(rng, size, 0.008)
    points = (rng.random((size, size)) < rng.uniform(0.004, 0.016) * (96 / size) ** 2).astype(np.float32)
    cells = np.minimum(gaussian_filter(points, 0.011 * size) * (2 * np.pi * (0.011 * size) ** 2), 1.2)
    return 0.12 + 0.75 * cells, np.clip(fibres, 0.15, 1)


def _centres(rng) -> np.ndarray:
    """Places of crypts [n, 2] in units of the image: a turned, jittered lattice that reaches over the edges."""
    spacing, turn = rng.uniform(0.34, 0.46), rng.uniform(0, np.pi)
    steps = np.arange(-4, 5)
    lattice = np.array([((i + 0.5 * (j % 2)) * spacing, j * spacing * 0.87) for i in steps for j in steps])
    lattice += rng.normal(0, 0.07 * spacing, lattice.shape)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    places = lattice @ rotation.T + 0.5 + rng.uniform(-0.2, 0.2, 2)
    inside = np.all((places > -0.2) & (places < 1.2), axis=1)
    return np.column_stack([places[inside], np.full(inside.sum(), spacing)])


def _crypts(rng, severity: float, size: int):
    """Where epithelium, lumen, nuclei and pale vacuoles are, each [size, size] in [0, 1]."""
    centres = _centres(rng)
    n = len(centres)
    own = np.clip(severity + rng.normal(0, 0.10, n), 0, 1)  # crypts of one polyp are not all alike
    # Dilated crypts beside narrow ones: the spread grows with severity, the mean area does not.
    growth = np.exp(rng.normal(0, 0.04 + 0.30 * severity, n))
    growth /= np.sqrt(np.mean(growth**2))
    grain = rng.uniform(0, np.pi)
    hollow = rng.uniform(0.30, 0.55)  # how much of a crypt is lumen
    parts = np.zeros((4, size, size), np.float32)
    for (cx, cy, spacing), s, grown in zip(centres, own, growth, strict=True):
        aspect = rng.uniform(1.0, 1.35)
        radius = 0.40 * spacing * grown
        rows, columns = _window(cy, 2.1 * radius, size), _window(cx, 2.1 * radius, size)
        y, x = np.meshgrid((rows + 0.5) / size - cy, (columns + 0.5) / size - cx, indexing="ij")
        shape = _crypt(rng, x, y, radius, aspect, grain + rng.normal(0, 0.35), hollow, s, size)
        if rows.size and columns.size:
            part = parts[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.maximum(part, shape, out=part)
    return parts


def _window(centre: float, reach: float, size: int) -> np.ndarray:
    """The pixels along one axis that a crypt can reach."""
    return np.arange(max(int((centre - reach) * size), 0), min(int((centre + reach) * size) + 1, size))


def _crypt(rng, dx, dy, radius, aspect, turn, hollow, severity, size):
    """One crypt: epithelium, lumen, nuclei and vacuoles [4, size, size]."""
    cos, sin = np.cos(turn), np.sin(turn)
    long, short = radius * np.sqrt(aspect), radius / np.sqrt(aspect)
    u, v = (cos * dx + sin * dy) / long, (cos * dy - sin * dx) / short
    rho, theta = np.hypot(u, v), np.arctan2(v, u)
    edge = size * radius / 0.7  # pixels of distance for a step of 1 in rho, softened
    wobble = 1 + 0.05 * np.cos(2 * theta + rng.uniform(0, 6.28)) + 0.04 * np.cos(3 * theta + rng.uniform(0, 6.28))
    # Serration: teeth of the lumen's border, whose area is kept the same.
    # Tufts bulge into the lumen, with sharp clefts between them.
    teeth, depth = rng.integers(8, 14), 0.04 + 0.26 * severity
    wave = 2 * (2 / np.pi - np.abs(np.sin(0.5 * teeth * theta + rng.uniform(0, np.pi))))
    inner = np.sqrt(hollow / (1 + 0.38 * depth**2)) * (1 + depth * wave) * wobble
    outside, lumen = wobble - rho, inner - rho
    # Branching at the base: a foot across the crypt's end, as long as the lesion is severe.
    if (foot := 0.95 * severity + rng.normal(0, 0.1)) > 0.35:
        side = rng.choice([-1, 1])
        across = np.hypot((u - side * 0.85) / 0.42, v / (0.6 + foot))
        outside = np.maximum(outside, 0.6 * (1 - across))
        lumen = np.maximum(lumen, 0.6 * (0.55 - across))
    soft = lambda field: 1 / (1 + np.exp(np.clip(-edge * field, -30, 30)))  # noqa: E731
    crypt, hole = soft(outside), soft(lumen)
    count = rng.integers(16, 26)
    ring = np.exp(-(((outside - 0.10) / 0.075) ** 2)) * (0.55 + 0.45 * np.cos(count * theta + rng.uniform(0, 6.28)))
    pale = np.exp(-(((outside - 0.27) / 0.10) ** 2)) * (0.5 + 0.5 * np.cos(0.5 * count * theta))
    return np.stack([crypt, hole, crypt * ring, crypt * pale]).astype(np.float32)


def _stained(rng, purple, pink, size: int) -> np.ndarray:
    """Light through the stained section, through a microscope: uint8 [size, size, 3]."""
    vectors = [vector * rng.uniform(0.85, 1.15, 3) for vector in (HEMATOXYLIN, EOSIN)]
    strengths = rng.uniform(0.7, 1.3, 2)
    density = sum(
        strength * field[..., None] * vector
        for strength, field, vector in zip(strengths, (purple, pink), vectors, strict=True)
    )
    ticks = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.05, 0.05, 2)
    light = rng.uniform(0.88, 1.0) + slope[0] * ticks[:, None] + slope[1] * ticks
    image = np.exp(-density) * light[..., None] * rng.uniform(0.96, 1.0, 3)
    blur = rng.uniform(0, 0.011) * size
    image = gaussian_filter(image, (blur, blur, 0)) + rng.normal(0, 0.012, image.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)


def load_polyps_standin(train: int = TRAIN, test: int = TEST, size: int = SIZE, cache=None) -> Dataset:
    """The stand-in as a Dataset of MHIST's schema; `subclasses` holds the votes. It is drawn once and kept."""
    folder = (cache or settings.cache.parent) / "polyps"
    parts = {}
    for part, count in (("train", train), ("test", test)):
        code = results.code_version(draw_polyps)
        path = folder / f"{part}-{count}-{size}-{code}.npz"
        parts[part] = _kept(path) or _drawn(path, count, size, part)
    splits = {part: Split(images, (votes >= MAJORITY).astype(np.int32), np.arange(len(votes)), votes)
              for part, (images, votes) in parts.items()}  # fmt: skip
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


def _kept(path):
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return archive["images"], archive["votes"]
    except (OSError, ValueError, EOFError, KeyError):
        return None


def _drawn(path, count: int, size: int, part: str):
    found = draw_polyps(count, size=size, part=part)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        np.savez(temporary, images=found.images, votes=found.votes)
        temporary.with_name(temporary.name).replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return found.images, found.votes
