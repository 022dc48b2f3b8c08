"""Which pieces of an image LIME should hide, by test on validation images: `python -m benchmarks.segments`.

Pieces suit if two runs of LIME with other samples rank them alike (`AGREE` or more, Spearman), and if what they rank
first is what the network needs: a small area under the deletion curve. Fine pieces win the second and lose the first,
so the rule is: of those that agree, the smallest area. LIME's own choice, quickshift, stands among the candidates. The
networks are small ones, trained here in a minute, so that no result of the notebooks goes into the choice.
"""

import argparse
from functools import partial

import keras
import numpy as np
from skimage.segmentation import quickshift

from benchmarks.polyps import trained
from utils import explain, metrics, models, plots, saliency
from utils.data import Split, load_mnist
from utils.data.pipeline import to_float
from utils.data.polyps import MAJORITY, draw_polyps
from utils.settings import settings

AGREE = 0.9


def lime_default(image: np.ndarray) -> np.ndarray:
    """What `lime` does when it is given no segmentation; it knows images of three channels only."""
    rgb = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.float64)
    return quickshift(rgb, kernel_size=4, max_dist=200, ratio=0.2)


DIGITS = {"quickshift": lime_default} | {
    f"tiles of {side} pixels": partial(explain.digit_segments, side=side) for side in (2, 3, 4, 5, 7)
}
TISSUE = {"quickshift": lime_default} | {
    f"about {pieces} patches": partial(explain.tissue_segments, pieces=pieces) for pieces in (25, 50, 100)
}


def tested(candidates: dict, network, images, labels, backgrounds, samples: int) -> list[dict]:
    """What each segmentation is worth on images uint8 [n, H, W, C] that the network has right.

    "explained" is the share of images in which it finds two pieces or more; the other scores are over those, with 95%
    intervals over images: "pieces" per image, "two seeds" (rank correlation), "deletion" and "insertion" (areas).
    """
    rows = []
    for name, segmentation in candidates.items():
        found, counts, agreements, areas = [], [], [], {"deletion": [], "insertion": []}
        for image, label, background in zip(images, labels, backgrounds, strict=True):
            ask = partial(
                explain.explain_image, {"": network}, image, [label],
                segmentation=segmentation, background=background, samples=samples,
            )  # fmt: skip
            try:
                pair = [ask(seed=seed) for seed in (0, 1)]
            except ValueError:  # fewer than two pieces: nothing to compare
                found.append(False)
                continue
            found.append(True)
            counts.append(int(pair[0].visible.sum()))
            weights = [explanation.of("", label)[explanation.visible] for explanation in pair]
            agreements.append(explain.explanation_agreement(*weights)["rank_correlation"])
            curves = saliency.deletion_insertion(
                network, image[None], pair[0].map("", label)[None], np.array([label]), background=background
            )
            for way in areas:
                areas[way].append(float(saliency.area(curves[way])[0]))
        scores = {"two seeds": agreements, **areas}
        rows.append(
            {"name": name, "explained": float(np.mean(found)), "pieces": float(np.mean(counts)) if counts else 0.0}
            | {score: metrics.mean_interval(values) for score, values in scores.items() if len(values) > 1}
        )
        print(f"  {name}: " + ", ".join(f"{s} {np.mean(v):.2f}" for s, v in scores.items() if v), flush=True)
    return rows


def by_rule(rows: list[dict]) -> str | None:
    """The segmentation that the rule takes: it explains every image, its seeds agree, its deletion area is least."""
    fit = [row for row in rows if row["explained"] == 1 and row["two seeds"]["mean"] >= AGREE]
    return min(fit, key=lambda row: row["deletion"]["mean"])["name"] if fit else None


def right_ones(network, split: Split, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of a split that the network has right, and their labels."""
    right = saliency.probabilities(network, split.images).argmax(axis=-1) == split.labels
    positions = np.flatnonzero(right)[:count]
    if len(positions) < 2:
        raise ValueError(f"The network has {len(positions)} of {len(split)} images right; two are needed. Train more.")
    return split.images[positions], split.labels[positions].astype(int)


def digits(options) -> dict:
    """LIME's pieces for digits, under a student from scratch."""
    data = load_mnist()
    keras.utils.set_random_seed(settings.seeds[0])
    network = models.mnist_student()
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(to_float(data.train.images), data.train.labels, batch_size=256, epochs=options.epochs, verbose=0)
    images, labels = right_ones(network, data.validation, options.images)
    rows = tested(DIGITS, network, images, labels, np.zeros(len(images)), options.samples)
    return {"source": data.source, "images": len(images), "samples": options.samples, "rows": rows}


def tissue(options) -> dict:
    """LIME's pieces for drawn polyps, under the small network of `benchmarks.polyps`."""
    drawn = draw_polyps(options.polyps, size=options.size)
    split = Split(drawn.images, (drawn.votes >= MAJORITY).astype(np.int32))
    kept = np.arange(len(split)) < round(0.85 * len(split))
    network = trained(split.take(np.flatnonzero(kept)), options.epochs, settings.seeds[0])
    images, labels = right_ones(network, split.take(np.flatnonzero(~kept)), options.images)
    means = images.mean(axis=(1, 2)) / 255  # each image's own colour
    samples = options.samples // 2  # its network is slower by far
    rows = tested(TISSUE, network, images, labels, means, samples)
    source = f"drawn polyps, NOT MHIST, {options.size} px"
    return {"source": source, "images": len(images), "samples": samples, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="images explained, of each data set (default 20)")
    parser.add_argument(
        "--samples", type=int, default=1000, help="LIME's samples for a digit, half for a polyp (default 1000)"
    )
    parser.add_argument("--epochs", type=int, default=8, help="epochs of both networks (default 8)")
    parser.add_argument("--polyps", type=int, default=2000, help="polyps drawn (default 2000)")
    parser.add_argument("--size", type=int, default=96, help="pixels of a polyp's side (default 96)")
    options = parser.parse_args()
    if options.images < 2:
        parser.error(f"--images is {options.images}; a mean with an interval needs two at least")
    numbers = {}
    for name, test in (("digits", digits), ("tissue", tissue)):
        print(f"{name}:", flush=True)
        numbers[name] = test(options)
        numbers[name]["by rule"] = by_rule(numbers[name]["rows"])
        print(f"  by the rule: {numbers[name]['by rule']}", flush=True)
    source = "; ".join(dict.fromkeys(of["source"] for of in numbers.values()))
    origin = {"task": "benchmark", "source": source, "seeds": [settings.seeds[0]], "note": "95% intervals over images"}
    plots.store("benchmark_segments", numbers | {"agree": AGREE}, origin, settings.figures)
    print(f"written: {settings.figures / 'benchmark_segments.json'}")


if __name__ == "__main__":
    main()
