"""LIME for several models at once, and how far two explanations agree.

LIME hides random sets of an image's segments, asks the model for its probabilities, and fits a linear model to the
answers: its weights say how much each segment adds to the probability of a class. Ribeiro et al., "Why Should I Trust
You?", KDD 2016, arXiv:1602.04938; computed by the authors' package, `lime`. What the maps are worth, and a second
method to check them by, is in `utils.saliency`.
"""

from dataclasses import dataclass

import numpy as np
from lime import lime_image
from scipy import stats
from skimage.segmentation import slic

from utils.metrics import mean_interval, paired_difference
from utils.saliency import as_float, probabilities

# lime 0.2.0.1 always draws a progress bar, one for each image, and has no switch for it.
lime_image.tqdm = lambda rows, **_: rows

SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Explanation:
    """LIME's answer for one image and several models, which saw the same segments hidden in the same samples.

    Attributes:
        image: float32 [H, W, C] in [0, 1].
        segments: int [H, W], the segment of each pixel, 0 to S - 1.
        visible: bool [S], False for segments that look like the background: hiding them changes nothing.
        weights: {model's name: {class: float [S]}}; 0 for segments that are not visible.
        probabilities: {model's name: float [classes]} of the whole image.
    """

    image: np.ndarray
    segments: np.ndarray
    visible: np.ndarray
    weights: dict[str, dict[int, np.ndarray]]
    probabilities: dict[str, np.ndarray]

    def of(self, name: str, label: int) -> np.ndarray:
        """Weights [S] of the segments for a class, by the model of that name."""
        if label not in self.weights.get(name, {}):
            explained = {name: sorted(by_class) for name, by_class in self.weights.items()}
            raise ValueError(
                f"Class {label!r} of the model {name!r} was not explained, only {explained}. "
                "Pass the model and the class to explain_image."
            )
        return self.weights[name][label]

    def map(self, name: str, label: int) -> np.ndarray:
        """The weights laid out as a picture, [H, W]."""
        return self.of(name, label)[self.segments]


def digit_segments(image: np.ndarray, side: int = 4) -> np.ndarray:
    """Tiles of `side` x `side` pixels, int [H, W]; `explain_image` joins the blank ones, and about 19 remain.

    LIME's own choice, quickshift, finds about two pieces in a digit, and in many digits fewer. These tiles were chosen
    on validation digits against a black background, as `benchmarks.segments` does it again under a network of its own;
    here means over teacher, student with KD and student from scratch. On 12 digits with 2,000 samples: rank correlation
    between two seeds 0.95 and area under the deletion curve 0.20; pieces of 8 pixels of ink by SLIC 0.95 and 0.22, of 6
    pixels 0.94 and 0.20. On 20 digits with 1,000 samples: tiles of 2 are too many to weigh (rank correlation 0.78,
    tiles of 4: 0.91), and tiles of 5 hold too much in one (area 0.31, tiles of 4: 0.27).
    """
    rows, columns = np.indices(image.shape[:2]) // side
    return rows * image.shape[1] + columns


def tissue_segments(image: np.ndarray, pieces: int = 25) -> np.ndarray:
    """At most about `pieces` patches of tissue that follow the borders of colour, int [H, W], by SLIC.

    Tried on 8 drawn polyps of 96 pixels with three small CNNs that are right on two of three, with 500 samples; means
    over the CNNs. 25, 50 and 100 pieces, hidden by the image's mean colour: rank correlation between two seeds 0.98,
    0.95 and 0.90, area under the deletion curve 0.33, 0.18 and 0.11. For 50 pieces a blurred image as the background
    does the same (0.95, 0.19), and white, the colour of a lumen, makes seeds agree less (0.90). On twenty images, by
    the rule of `benchmarks.segments` (seeds that agree to 0.9, then the least area), 25 pieces are taken.
    """
    return slic(image, pieces, compactness=10, sigma=1, start_label=0)


def explain_image(
    models: dict, image, labels, *, segmentation, background, samples: int = SAMPLES, seed: int = 0, batch: int = 250
) -> Explanation:
    """LIME's weights of an image's segments, for each class in `labels` and each model.

    All models are asked about the same samples in one run of LIME: it gets one classifier whose columns are the first
    model's classes, then the second's, and so on, and fits the columns asked for, each by itself.

    Args:
        models: {name: keras model of float [b, H, W, C] in [0, 1] -> logits [b, classes]}.
        image: uint8, or float in [0, 1], [H, W, C] of one or three channels.
        labels: the classes to explain, the same for all models: the true one, and any predicted ones that differ.
        segmentation: function of the image [H, W, C] that returns int [H, W], e.g. `digit_segments`.
        background: what stands where a segment is hidden: a number, a colour [C] or a picture [H, W, C] in [0, 1].
        samples: how many images with hidden segments LIME asks about.
        seed: chooses what is hidden; the same seed gives the same weights.
        batch: how many images a model gets at once.
    """
    image, labels = as_float(image), [int(label) for label in labels]
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"The image is {image.shape}; expected [H, W, 1] or [H, W, 3]. Pass one image, not a batch.")
    whole = {name: probabilities(model, image[None])[0] for name, model in models.items()}
    classes = {name: len(found) for name, found in whole.items()}
    if not labels or min(labels) < 0 or max(labels) >= min(classes.values()):
        raise ValueError(f"labels are {labels}; expected classes of every model, which have {classes} of them.")
    segments, visible = _segments(image, segmentation, background)

    def ask_all(rgb):  # float [b, H, W, 3] -> [b, classes of all models]
        grey_or_rgb = rgb[..., : image.shape[-1]].astype(np.float32)
        return np.concatenate([probabilities(model, grey_or_rgb) for model in models.values()], axis=1)

    first_column = dict(zip(models, np.cumsum([0, *classes.values()]), strict=False))
    found = lime_image.LimeImageExplainer(feature_selection="none", random_state=seed).explain_instance(
        np.broadcast_to(image, (*image.shape[:2], 3)).copy(),  # LIME knows RGB only
        ask_all,
        labels=[int(first + label) for first in first_column.values() for label in labels],
        top_labels=None,
        hide_color=np.asarray(background, np.float32),
        num_samples=samples,
        batch_size=batch,
        segmentation_fn=lambda _: segments,
        random_seed=seed,
    )
    weights = {
        name: {label: _as_array(found.local_exp[first + label]) * visible for label in labels}
        for name, first in first_column.items()
    }
    return Explanation(image, segments, visible, weights, whole)


def _segments(image, segmentation, background) -> tuple[np.ndarray, np.ndarray]:
    """Segments [H, W] numbered 0 to S - 1 without gaps, as LIME needs them, and which of them are visible [S]."""
    found = np.asarray(segmentation(image))
    if found.shape != image.shape[:2]:
        raise ValueError(f"The segmentation returned {found.shape}; expected {image.shape[:2]}, one integer per pixel.")
    number = np.unique(found, return_inverse=True)[1].ravel()
    changes = np.any(image != np.asarray(background, np.float32), axis=-1).ravel()
    shown = np.bincount(number, weights=changes) > 0
    # One segment for all that hiding doesn't change: each of its own would be one more weight to fit to noise.
    number = np.unique(np.where(shown[number], number, -1), return_inverse=True)[1]
    visible = np.bincount(number, weights=changes) > 0
    segments = number.reshape(found.shape)
    if visible.sum() < 2:
        raise ValueError(
            f"Of {len(visible)} segments {visible.sum()} differ from the background; LIME compares two or more. "
            "Take a finer segmentation or another background; a blank image has no explanation."
        )
    return segments, visible


def _as_array(pairs: list) -> np.ndarray:
    """LIME's list of (segment, weight), ordered by size, as an array ordered by segment."""
    weights = np.empty(len(pairs))
    for segment, weight in pairs:
        weights[segment] = weight
    return weights


def segment_sums(saliency, segments) -> np.ndarray:
    """A map [H, W] summed over each segment, float [S], so that it can be held against LIME's weights."""
    return np.bincount(np.ravel(segments), weights=np.ravel(saliency))


def explanation_agreement(first, second, top: float = 0.25) -> dict:
    """How alike two explanations of one image rank its segments; first and second: weights [S] of the same segments.

    Returns:
        "rank_correlation", Spearman's, from -1 to 1, and 0 if either gives all segments the same weight;
        "top_overlap", the share in [0, 1] that the strongest `top` of the segments of both have in common;
        "top_by_chance", the overlap to expect of a random ranking.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"Weights are {first.shape} and {second.shape}; expected the same two or more segments in both. "
            "Explain the image once, with both models in `models`."
        )
    varied = np.ptp(first) > 0 and np.ptp(second) > 0
    count = max(round(top * len(first)), 1)
    tops = [set(np.argsort(-weights, kind="stable")[:count]) for weights in (first, second)]
    return {
        "rank_correlation": float(stats.spearmanr(first, second).statistic) if varied else 0.0,
        "top_overlap": len(tops[0] & tops[1]) / count,
        "top_by_chance": count / len(first),
    }


def agreements(firsts, seconds, top: float = 0.25) -> dict[str, np.ndarray]:
    """`explanation_agreement` of each pair of explanations, one pair for each image: {score: [images]}."""
    rows = [explanation_agreement(first, second, top) for first, second in zip(firsts, seconds, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def compare_students(distilled, scratch) -> dict:
    """Two students' agreement with the teacher, [images] each and in the same order: the mean of each with its 95%
    interval over images, and their difference, paired by image, with the p-values of the t-test and of Wilcoxon's.

    The interval says what other test images would change, not what another training run would: for that, repeat it
    with networks of other seeds.
    """
    difference = paired_difference(distilled, scratch)
    equal = np.array_equal(distilled, scratch)
    return {
        "distilled": mean_interval(distilled),
        "scratch": mean_interval(scratch),
        "difference": difference | {"wilcoxon_p": 1.0 if equal else float(stats.wilcoxon(distilled, scratch).pvalue)},
    }


def in_words(comparison: dict, score: str = "rank correlation of segment weights with the teacher's") -> str:
    """One plain sentence on what `compare_students` found."""
    distilled, scratch, gap = (comparison[part] for part in ("distilled", "scratch", "difference"))
    if not gap["outside_noise"]:
        verdict = (
            "It cannot be told whether the distilled student or the one from scratch looks more where the teacher looks"
        )
    elif gap["mean"] > 0:
        verdict = "The distilled student looks where the teacher looks more than the one from scratch"
    else:
        verdict = "The distilled student looks where the teacher looks less than the one from scratch"
    return (
        f"{verdict}: {score} {distilled['mean']:.3f} against {scratch['mean']:.3f}, difference {gap['mean']:+.3f} "
        f"[{gap['low']:+.3f}, {gap['high']:+.3f}], {'outside' if gap['outside_noise'] else 'within'} the noise over "
        f"{gap['n']} images."
    )


def _called(probabilities: np.ndarray, limit: float | None) -> np.ndarray:
    """The classes that are answered, int [...]: the more probable one, or the second of two from the limit on."""
    return probabilities.argmax(axis=-1) if limit is None else (probabilities[..., 1] >= limit).astype(int)


def _at_one_half(probabilities: np.ndarray, limit: float) -> np.ndarray:
    """Probabilities [n, 2] whose odds are moved so that the threshold `limit` of the second class lies at one half."""
    moved = probabilities * [limit, 1 - limit]
    return moved / moved.sum(axis=-1, keepdims=True)


def pick_examples(answers: dict, labels, limits: dict | None = None) -> dict[str, int]:
    """Positions of an easy, an ambiguous and a misclassified image, chosen by rule and not by eye.

    "easy": right by all models, with the highest probability of the true class, mean over models. "ambiguous": right by
    all, with the least lead over the second class. "misclassified": wrong by the most models and, among those, with
    the most left for the true class: where nothing is left for it, nothing explains it.

    Args:
        answers: {model's name: probabilities [n, classes]} of test images.
        labels: int [n], the true classes.
        limits: {model's name: its threshold in (0, 1)}, with two classes: the second is answered from there on.
            Without, the more probable class is.
    """
    called = np.stack([_called(found, limits and limits[name]) for name, found in answers.items()])
    if limits:
        answers = {name: _at_one_half(found, limits[name]) for name, found in answers.items()}
    stacked, labels = np.stack(list(answers.values())), np.asarray(labels)  # [models, n, classes]
    right = called == labels
    if right.all() or not right.all(axis=0).any():
        raise ValueError(
            f"Of {len(labels)} images the models have {right.sum(axis=1).tolist()} right; expected one that all have "
            "right and one that a model has wrong. Pass more images."
        )
    true = np.take_along_axis(stacked, labels[None, :, None], axis=-1)[..., 0].mean(axis=0)
    lead = np.diff(np.sort(stacked, axis=-1)[..., -2:])[..., 0].mean(axis=0)
    wrong = (~right).sum(axis=0)
    return {
        "easy": int(np.where(right.all(axis=0), true, -np.inf).argmax()),
        "ambiguous": int(np.where(right.all(axis=0), lead, np.inf).argmin()),
        "misclassified": int(np.lexsort((-true, -wrong))[0]),
    }


def _place(explanation: Explanation, segment: int) -> str:
    """Where the middle of a segment lies, in thirds of what is visible: "upper left", "middle centre"."""
    names = ("upper", "middle", "lower"), ("left", "centre", "right")
    seen, piece = np.nonzero(explanation.visible[explanation.segments]), np.nonzero(explanation.segments == segment)
    words = []
    for name, visible, at in zip(names, seen, piece, strict=True):  # along rows, then along columns
        low, high = visible.min(), visible.max() + 1
        words.append(name[int(3 * (np.mean(at) - low) / (high - low))])
    return " ".join(words)


def told(explanation: Explanation, label: int, class_names, limits: dict[str, float] | None = None) -> str:
    """One explanation in words: what each model answers, which piece of the image speaks most for a class (or, where
    none speaks for it, most against it), and how alike the other models weigh the pieces to the first one, the teacher.
    `limits` as in `figure_row`."""
    first = next(iter(explanation.probabilities))
    sentences = []
    for name, found in explanation.probabilities.items():
        weights = explanation.of(name, label)
        strongest = int(np.where(explanation.visible, weights, -np.inf).argmax())
        speaks = f"for {class_names[label]} the piece at the {_place(explanation, strongest)} speaks most"
        if weights[strongest] <= 0:
            strongest = int(np.where(explanation.visible, weights, np.inf).argmin())
            speaks = (
                f"no piece speaks for {class_names[label]}, and the one at the {_place(explanation, strongest)} "
                "speaks most against it"
            )
        answer = f"{class_names[found.argmax()]} ({found.max():.2f})"
        if limits:
            answer = f"{class_names[int(_called(found, limits[name]))]} (p({class_names[1]}) = {found[1]:.2f})"
        sentence = f"The {name} answers {answer}; {speaks} ({weights[strongest]:+.2f})"
        if name != first:
            both = (weights[explanation.visible], explanation.of(first, label)[explanation.visible])
            alike = explanation_agreement(*both)["rank_correlation"]
            sentence += f", and its ranking of the pieces has a correlation of {alike:.2f} with the {first}'s"
        sentences.append(sentence + ".")
    return " ".join(sentences)


def figure_row(
    title: str, explanation: Explanation, label: int, class_names, limits: dict[str, float] | None = None
) -> dict:
    """One row of the figure `plots.explanations`: the image, its segments, and each model's weights for one class.

    Where a model's answer is another class, its title says so; with `limits`, the models' thresholds for the second of
    two classes, it always names the answer, since that may not be the more probable class.
    """

    def answer(name, found):
        if limits:
            return f", called {class_names[int(_called(found, limits[name]))]}"
        return "" if found.argmax() == label else f", says {class_names[found.argmax()]} {found.max():.2f}"

    return {
        "title": f"{title}\nwhy {class_names[label]}?",
        "image": np.round(255 * explanation.image).astype(int),
        "segments": explanation.segments,
        "maps": [
            {
                "name": name,
                "title": f"p({class_names[label]}) = {found[label]:.2f}{answer(name, found)}",
                "weights": explanation.of(name, label),
            }
            for name, found in explanation.probabilities.items()
        ],
    }
