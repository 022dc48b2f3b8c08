"""How one section of a polyp is drawn: crypts whose shape follows a severity, and everything else without regard to it.

After the published criteria: crypts of hyperplastic polyps are straight, narrow and evenly spaced, and serrated
slightly, near the surface only; those of sessile serrated lesions are serrated down to the base, unevenly dilated, and
branch at the base into a foot, L-shaped or like an inverted T. A severity from 0 to 1 governs all of these by degrees.

Serration lengthens borders and dilation widens lumens, so that amounts of colour would betray the class. Therefore
how much of the image is crypt and how much lumen, and how the densities of both stains are distributed over the
pixels, is drawn for each image without regard to the severity: only where the stain lies tells the classes apart.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

HEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.10, 0.95, 0.28)  # what each absorbs of red, green and blue
# How the densities of the two stains are distributed over the pixels of a tissue: (shares of the pixels, up to which
# density), on average over images; the image's own are drawn around these.
DENSITIES = {
    "lumen": (((0, 0.75, 1), (0.02, 0.04, 0.20)), ((0, 0.75, 1), (0.02, 0.05, 0.25))),
    "epithelium": (((0, 0.15, 0.65, 1), (0.16, 0.36, 0.55, 1.2)), ((0, 0.2, 1), (0.20, 0.38, 0.62))),
    "stroma": (((0, 0.5, 0.9, 1), (0.10, 0.19, 0.36, 0.95)), ((0, 0.1, 1), (0.30, 0.50, 0.85))),
}
FAR = 0.75  # the image is 1 wide, with the origin at its centre: nothing of it is further away than this, turned or not


def draw_polyp(rng: np.random.Generator, severity: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [size, size, 3] and its crypt mask bool [size, size], which holds the lumen too."""
    crypt_share = rng.uniform(0.46, 0.66)
    lumen_share = crypt_share * rng.uniform(0.24, 0.46)
    depth, hollow = _crypts(rng, severity, size)
    depth -= _upper(depth, crypt_share)
    hollow = np.minimum(hollow, depth - 0.02)  # some epithelium all around
    hollow -= _upper(hollow, lumen_share)
    return _stained(rng, _densities(rng, depth, hollow, size), size), depth > 0


def _upper(field: np.ndarray, share: float) -> np.float32:
    """The value that this share of the field's pixels lies above."""
    place = int((1 - share) * field.size)
    return np.partition(field, place, axis=None)[place]


def _crypts(rng, severity: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How deep each pixel lies within a crypt, and how deep within a lumen, float32 [size, size], in units of the
    image and negative outside. Crypts stand in columns, side by side; along a column one follows another."""
    spacing = rng.uniform(0.24, 0.36)
    length = spacing * rng.uniform(0.2, 2.4)  # short where the section cuts across the crypts
    period = length + spacing
    columns, rows = int(2 * FAR / (0.6 * spacing)) + 3, int(2 * FAR / period) + 3
    widths = np.exp(rng.normal(0, 0.04 + 0.16 * severity, columns))
    widths *= spacing / widths.mean()
    edges = np.cumsum(widths)
    edges -= edges[columns // 2] + rng.uniform(-0.5, 0.5) * spacing
    starts = -FAR - period * (0.5 + 0.5 * rng.random(columns))

    # What each crypt is like, by column and row.
    shape = (columns, rows)
    own = np.clip(severity + rng.normal(0, 0.15, shape), 0, 1)  # crypts of one polyp are not all alike
    radius = (0.37 - 0.04 * severity) * widths[:, None] * np.exp(rng.normal(0, 0.05 + 0.08 * severity, shape))
    foot = np.clip(1.3 * own + rng.normal(-0.35, 0.2, shape), 0, 1) * spacing * 0.8
    side = rng.random(shape)
    left, right = foot * (side < 0.7), foot * (side > 0.3)
    centre, start = (np.broadcast_to(at[:, None], shape) for at in (edges - widths / 2, starts))
    kinds = np.stack([own, radius, left, right, centre, start, rng.random(shape)]).astype(np.float32)

    across, along = _turned(rng, 0.006 + 0.02 * severity, size)
    middle = np.clip(np.searchsorted(edges.astype(np.float32), across.ravel()), 1, columns - 2).reshape(size, size)

    def crypt_of(column):
        """Depth in the crypt of that column, and all that its lumen depends on."""
        row = np.clip(((along - starts.astype(np.float32)[column]) / period).astype(np.int32), 0, rows - 1)
        own, radius, left, right, centre, start, phase = kinds[:, column, row]
        in_cell, v = along - start - row.astype(np.float32) * period, across - centre
        u = in_cell - spacing / 2
        on_axis = np.clip(u, 0, length)
        beyond = u - on_axis
        from_axis = np.hypot(beyond, v)
        from_foot = np.hypot(u, v - np.clip(v, -left, right)) + 0.2 * radius
        distance = np.minimum(from_axis, from_foot)
        height = on_axis / length
        # At the base severe crypts are wide and slight ones narrow; the surface is the other way round.
        wide = radius * (1 + (0.30 * own - 0.10) * (1 - height) + 0.10 * (1 - own) * (height - 0.5))
        depth = np.minimum(wide - distance, np.minimum(in_cell, period - in_cell) - 0.012)
        return depth, (own, radius, phase, v, on_axis, beyond, from_foot < from_axis, distance, height, wide)

    # A pixel belongs to the crypt in which it lies deepest, maybe of a column beside its own; crypts that meet press
    # each other flat.
    depths = np.stack([crypt_of(middle + step)[0] for step in (-1, 0, 1)])
    deepest = middle + depths.argmax(0) - 1
    _, second, first = np.sort(depths, axis=0)
    depth = np.minimum(first, (first - second) / 2 - 0.012)

    own, radius, phase, v, on_axis, beyond, is_foot, distance, height, wide = crypt_of(deepest)[1]
    # Serration: tufts of epithelium bulge into the lumen, with sharp clefts between them.
    border = np.where(is_foot, np.abs(v), on_axis + radius * np.arctan2(beyond, np.abs(v)) + 0.4 * np.abs(v))
    teeth = 0.64 - np.abs(np.sin(np.pi * (border / rng.uniform(0.055, 0.085) + phase + 0.25 * np.sign(v))))
    deep = radius * (0.08 + 0.14 * (1 - own) * height + 0.34 * own)
    return depth, 0.5 * wide - distance + deep * teeth


def _turned(rng, bend: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and along the crypts, float32 [size, size]: turned at random, and bent."""
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))  # NumPy's own scalars would make all of it float64
    ticks = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    across, along = cos * ticks[:, None] - sin * ticks, sin * ticks[:, None] + cos * ticks
    return across + bend * np.sin(2 * np.pi * (rng.uniform(0.8, 1.6) * along + rng.random())), along


def _noise(rng, size: int, scale: float) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 with blobs of `scale` (in units of the image), [size, size]."""
    field = gaussian_filter(rng.standard_normal((size, size), np.float32), scale * size, mode="wrap", truncate=3)
    return (field - field.mean()) / (field.std() + 1e-6)


def _densities(rng, depth: np.ndarray, hollow: np.ndarray, size: int) -> np.ndarray:
    """Densities of the two stains, float32 [2, size, size]: fibres and scattered nuclei between the crypts; in their
    epithelium nuclei along the outer border and pale mucin towards the lumen."""
    fine, fibres = _noise(rng, size, 0.009), _noise(rng, size, 0.025)
    ring = np.exp(-(((depth - 0.012) / 0.016) ** 2)) * np.clip(0.75 + 0.35 * fine, 0, 1.3)
    mucin = np.clip((depth - 0.03) / 0.03, 0, 1) * np.clip(0.5 + 0.5 * fibres, 0, 1) * rng.uniform(0.2, 0.8)
    inside = np.clip(-hollow / 0.02, 0, 1)  # 0 at the lumen's border
    crypt, lumen = depth > 0, hollow > 0
    order = {  # of the pixels by purple and by pink
        "lumen": (lumen, -hollow, -hollow),
        "epithelium": (
            crypt & ~lumen,
            (0.4 + ring) * (1 - 0.5 * mucin) * inside,
            (1 - 0.5 * mucin) * inside + 0.1 * fine,
        ),
        "stroma": (~crypt, np.clip(fine - rng.uniform(0.8, 1.6), 0, 9) + 0.05 * fibres, fibres + 0.6 * fine),
    }
    stains = np.empty((2, size, size), np.float32)
    for tissue, (region, *fields) in order.items():
        for stain, field, (shares, values) in zip(stains, fields, DENSITIES[tissue], strict=True):
            shares = np.add(shares, rng.uniform(-0.06, 0.06) * np.sign(np.multiply(shares, np.subtract(1, shares))))
            stain[region] = _redistributed(field[region], shares, rng.uniform(0.75, 1.25) * np.array(values))
    return _blurred(stains, size * rng.uniform(0.004, 0.011))


def _blurred(stains: np.ndarray, pixels: float) -> np.ndarray:
    """The stains blurred over space but not over values: mixed tones along borders would tell how long those are."""
    blurred = gaussian_filter(stains, (0, pixels, pixels), truncate=3)
    for soft, sharp in zip(blurred, stains, strict=True):
        soft.flat[np.argsort(soft, axis=None)] = np.sort(sharp, axis=None)
    return blurred


def _redistributed(values: np.ndarray, shares, limits) -> np.ndarray:
    """Other values [n] in the same order: a share p of them lies below the line through `limits` at p."""
    ranks = np.empty(values.size, np.float32)
    ranks[np.argsort(values)] = np.linspace(0, 1, values.size, dtype=np.float32)
    return np.interp(ranks, shares, limits)


def _stained(rng, stains: np.ndarray, size: int) -> np.ndarray:
    """Light through the stained section, seen through a microscope: uint8 [size, size, 3]."""
    absorbed = np.stack([HEMATOXYLIN, EOSIN]) * rng.uniform(0.85, 1.15, (2, 3)) * rng.uniform(0.7, 1.3, (2, 1))
    image = np.exp(-np.moveaxis(stains, 0, -1) @ absorbed.astype(np.float32))
    ticks = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.05, 0.05, 2).astype(np.float32)
    light = np.float32(rng.uniform(0.88, 1.0)) + slope[0] * ticks[:, None] + slope[1] * ticks
    image *= light[..., None] * rng.uniform(0.96, 1.0, 3).astype(np.float32)
    image += np.float32(rng.uniform(0.006, 0.024)) * rng.standard_normal(image.shape, np.float32)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8)
