"""How hard the drawn polyps are, and how fast they are drawn: `python -m benchmarks.polyps`.

A stand-in is worth something if there is something to learn in it and no short cut to it. So: the AUC of a small
convolutional network from random weights, over all test images and by how many annotators agree; the AUC of a logistic
regression that sees colours only; and images drawn in a second.
"""

import argparse
import time

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils import binary, metrics, plots, signals
from utils.data import Split, pipeline
from utils.data.polyps import MAJORITY, draw_polyps
from utils.data.views import StainView
from utils.settings import settings

BATCH, RATE = 32, 2e-3
WIDTHS = (16, 32, 64, 128)


def small_network(size: int) -> keras.Model:
    """Four convolutions, halved in between, averaged over the image: images [B, size, size, 3] to logits [B, 2]."""
    image = x = keras.Input((size, size, 3), name="image")
    for width in WIDTHS:
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x)))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)), name="small_network")


def trained(split: Split, epochs: int, seed: int) -> keras.Model:
    """The small network after this many epochs on flipped, turned and restained views, its rate falling to 0."""
    keras.utils.set_random_seed(seed)
    network = small_network(split.images.shape[1])
    steps = pipeline.steps(len(split), BATCH)
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, epochs * steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    shown = pipeline.batches(split, batch_size=BATCH, seed=seed, epochs=epochs, view=StainView())
    network.fit(
        shown.map(lambda batch: (batch["image"], batch["label"])),
        epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0,
    )  # fmt: skip
    return network


def colours(images: np.ndarray) -> np.ndarray:
    """Histograms of red, green and blue in 16 bins each, [n, 48]."""
    return np.array([
        np.concatenate([np.histogram(image[..., c], 16, (0, 256))[0] for c in range(3)]) for image in images
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000, help="training images (default 2000)")
    parser.add_argument("--test", type=int, default=1000, help="test images (default 1000)")
    parser.add_argument("--size", type=int, default=96, help="pixels of a side (default 96)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the network (default 8)")
    options = parser.parse_args()
    began = time.perf_counter()
    train, test = (draw_polyps(getattr(options, part), size=options.size, part=part) for part in ("train", "test"))
    rate = (options.train + options.test) / (time.perf_counter() - began)
    split = Split(train.images, (train.votes >= MAJORITY).astype(np.int32))
    labels = test.votes >= MAJORITY
    strata = {
        name.replace("/", " of "): chosen for name, chosen in binary.agreement_strata(test.votes).items()
        if 0 < labels[chosen].sum() < chosen.sum()  # a few test images may leave one without HP or SSA
    }  # fmt: skip
    aucs, by_agreement = [], {name: [] for name in strata}
    for seed in settings.seeds[:3]:
        scores = binary.positive_scores(signals.predict_logits(trained(split, options.epochs, seed), test.images))
        aucs.append(float(roc_auc_score(labels, scores)))
        for name, chosen in strata.items():
            by_agreement[name].append(float(roc_auc_score(labels[chosen], scores[chosen])))
        print(f"seed {seed}: AUC {aucs[-1]:.3f}, " + ", ".join(f"{n} {a[-1]:.3f}" for n, a in by_agreement.items()))
    by_colour = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    by_colour.fit(colours(train.images), split.labels)
    numbers = {
        "small network": metrics.mean_interval(aucs), "by agreement": by_agreement,
        "parameters": small_network(options.size).count_params(),
        "colours alone": float(roc_auc_score(labels, by_colour.decision_function(colours(test.images)))),
        "images a second": rate, **vars(options),
    }  # fmt: skip
    print(f"mean AUC {np.mean(aucs):.3f}; by colours alone {numbers['colours alone']:.3f}; {rate:.0f} images a second")
    origin = {
        "task": "benchmark", "source": f"drawn polyps, NOT MHIST, {options.size} px", "seeds": list(settings.seeds[:3]),
        "note": f"test AUC; {options.train} training images, {options.test} test images",
    }  # fmt: skip
    plots.store("benchmark_polyps", numbers, origin, settings.figures)
    print(f"written: {settings.figures / 'benchmark_polyps.json'}")


if __name__ == "__main__":
    main()
