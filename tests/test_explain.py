"""LIME, integrated gradients and their scores on models whose right explanation is known."""

import keras
import numpy as np
import pytest
from skimage.color import gray2rgb

from utils import explain, saliency

SIDE = 8


def linear_model(weights, scale=2.0, bias=-0.7):
    """Two classes: logit 1 is scale · sum(weights · pixels) + bias, logit 0 its negative. weights: [H, W]."""
    image = keras.Input((*weights.shape, 1))
    logits = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(image))
    model = keras.Model(image, logits)
    kernel = scale * weights.ravel()
    model.layers[-1].set_weights([np.stack([-kernel, kernel], axis=1), np.array([-bias, bias])])
    return model


def quadrant(sign=1.0):
    """Weights [H, W] that see the upper left quarter only."""
    weights = np.zeros((SIDE, SIDE))
    weights[: SIDE // 2, : SIDE // 2] = sign / (SIDE * SIDE / 4)
    return weights


def tiles(image):
    """Segments of 2 x 2 pixels, with numbers that have gaps."""
    rows, columns = np.indices(image.shape[:2]) // 2
    return 7 * rows + 100 * columns + 3


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0.5, 1.0, (SIDE, SIDE, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return linear_model(quadrant())


def lime_of(models, image, labels=(1,), **options):
    return explain.explain_image(
        models, image, labels, **{"segmentation": tiles, "background": 0.0, "samples": 400, **options}
    )


INSIDE = quadrant() > 0


def test_lime_points_to_the_quadrant_that_the_model_sees(model, image):
    found = lime_of({"m": model}, image).map("m", 1)
    assert found.shape == (SIDE, SIDE)
    assert found[INSIDE].min() > 3 * np.abs(found[~INSIDE]).max() > 0


def test_the_other_class_is_explained_by_the_opposite_sign(model, image):
    found = lime_of({"m": model}, image, labels=(0, 1))
    np.testing.assert_allclose(found.of("m", 0), -found.of("m", 1), atol=1e-6)
    assert found.of("m", 1).max() > 0.03


def test_models_explained_together_get_what_each_gets_alone(model, image):
    blind = linear_model(quadrant()[::-1, ::-1])
    together = lime_of({"a": model, "b": blind}, image, labels=(1, 0))
    for name, alone in (("a", model), ("b", blind)):
        single = lime_of({name: alone}, image, labels=(1,))
        np.testing.assert_allclose(together.of(name, 1), single.of(name, 1), atol=1e-6)
    assert np.abs(together.of("a", 1) - together.of("b", 1)).max() > 0.03


def test_the_same_seed_gives_the_same_bits_and_another_seed_nearly_the_same_ranking(model, image):
    first, again, other = (lime_of({"m": model}, image, seed=seed).of("m", 1) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert explain.explanation_agreement(first, other)["top_overlap"] == 1.0


def test_the_size_of_batches_changes_nothing(model, image):
    one, many = (lime_of({"m": model}, image, samples=40, batch=size).of("m", 1) for size in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-6)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_every_channel_of_a_colour_image_is_hidden(channel):
    colour = np.full((SIDE, SIDE, 3), 0.8, np.float32)
    pixels = keras.Input((SIDE, SIDE, 3))
    one_channel = keras.Model(pixels, linear_model(quadrant(), scale=2.0, bias=-1.0)(pixels[..., channel, None]))
    found = lime_of({"m": one_channel}, colour, background=[0.1, 0.2, 0.3]).map("m", 1)
    assert found[INSIDE].min() > 3 * np.abs(found[~INSIDE]).max()


def test_uint8_and_float_images_are_the_same_picture(model, image):
    grey = np.round(255 * image).astype(np.uint8)
    by_bytes, by_floats = (lime_of({"m": model}, i, samples=50).of("m", 1) for i in (grey, grey / np.float32(255)))
    np.testing.assert_array_equal(by_bytes, by_floats)
    with pytest.raises(ValueError, match="uint8, or floats in"):
        lime_of({"m": model}, image * 255)


def test_segments_that_look_like_the_background_are_one_and_weigh_nothing(model, image):
    half = image.copy()
    half[:, SIDE // 2 :] = 0
    found = lime_of({"m": model}, half)
    assert found.visible.sum() == 8 and len(found.visible) == 9
    assert np.all(found.map("m", 1)[:, SIDE // 2 :] == 0) and np.all(found.map("m", 1)[:4, :4] > 0)


def test_lime_is_quiet(model, image, capsys):
    lime_of({"m": model}, image, samples=20)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": lambda i: np.zeros(i.shape[:2], int)}, "two or more"),
        ({"segmentation": lambda i: np.zeros((3, 3), int)}, "one integer per pixel"),
        ({"labels": (2,)}, "expected classes of every model"),
        ({"labels": ()}, "expected classes of every model"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_words(model, image, change, message):
    with pytest.raises(ValueError, match=message):
        lime_of({"m": model}, image, **change)


def test_a_constant_image_is_refused_on_its_own_colour_and_explained_on_another(model):
    grey = np.full((SIDE, SIDE, 1), 0.5, np.float32)
    with pytest.raises(ValueError, match="a blank image has no explanation"):
        lime_of({"m": model}, grey, background=0.5)
    assert lime_of({"m": model}, grey).map("m", 1)[INSIDE].min() > 0.01


def test_a_class_that_was_not_explained_is_refused(model, image):
    found = lime_of({"m": model}, image, samples=20)
    for name, label in (("m", 0), ("n", 1)):
        with pytest.raises(ValueError, match="was not explained"):
            found.map(name, label)


def test_digit_segments_are_tiles_of_which_the_blank_ones_are_one():
    digit = np.zeros((28, 28, 1), np.float32)
    digit[4:24, 11:16] = 0.9  # five tiles high, two wide
    tiles_of_4 = explain.digit_segments(digit)
    assert np.bincount(tiles_of_4.ravel())[np.unique(tiles_of_4)].tolist() == [16] * 49
    assert len(np.unique(tiles_of_4[4:8, 8:12])) == 1
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    found = explain.explain_image(
        {"m": model}, digit, [1], segmentation=explain.digit_segments, background=0.0, samples=30
    )
    assert found.visible.sum() == 10 and len(found.visible) == 11


def test_tissue_segments_follow_borders_of_colour():
    half = np.full((48, 48, 3), (0.9, 0.8, 0.9), np.float32)
    half[:, 21:] = (0.4, 0.1, 0.5)
    found = explain.tissue_segments(half, pieces=16)
    left, right = set(np.unique(found[:, :20])), set(np.unique(found[:, 22:]))
    assert not left & right and 8 <= len(left | right) <= 24


def test_agreement_with_itself_its_negative_and_half_of_it():
    weights = np.arange(8.0)
    same = explain.explanation_agreement(weights, weights)
    assert same == {"rank_correlation": pytest.approx(1.0), "top_overlap": 1.0, "top_by_chance": 0.25}
    opposite = explain.explanation_agreement(weights, -weights)
    assert opposite["rank_correlation"] == pytest.approx(-1.0) and opposite["top_overlap"] == 0.0
    # Top two of the first are segments 7 and 6, of the second 7 and 0.
    assert explain.explanation_agreement(weights, [6.5, 1, 2, 3, 4, 5, 6, 7])["top_overlap"] == 0.5
    assert explain.explanation_agreement(weights, np.zeros(8))["rank_correlation"] == 0.0
    with pytest.raises(ValueError, match="the same two or more segments"):
        explain.explanation_agreement(weights, weights[:7])


def test_students_are_compared_by_image():
    rng = np.random.default_rng(0)
    scratch = rng.uniform(0.2, 0.8, 40)  # images differ far more than the students do
    found = explain.compare_students(scratch + rng.normal(0.05, 0.02, 40), scratch)
    assert found["difference"]["mean"] == pytest.approx(0.05, abs=0.01) and found["difference"]["n"] == 40
    assert found["difference"]["p_value"] < 1e-6 and found["difference"]["wilcoxon_p"] < 1e-6
    assert found["distilled"]["low"] < found["scratch"]["high"]  # unpaired, it would not be seen
    assert "more than" in explain.in_words(found) and "outside the noise over 40 images" in explain.in_words(found)
    reverse = explain.compare_students(scratch, scratch + rng.normal(0.05, 0.02, 40))
    assert "less than the one" in explain.in_words(reverse)
    tie = explain.compare_students(scratch + rng.normal(0, 0.02, 40), scratch)
    assert "within the noise" in explain.in_words(tie)
    assert "within the noise" in explain.in_words(explain.compare_students(scratch, scratch))


def test_agreements_keep_the_order_of_images():
    found = explain.agreements([[0.0, 1, 2, 3], [5.0, 1, 4, 4.5]], [[0.0, 1, 2, 3], [0.0, 3, 2, 1]])
    np.testing.assert_allclose(found["rank_correlation"], [1, -1])


def test_examples_are_chosen_by_rule():
    answers = {
        "a": np.array([[0.9, 0.1], [0.99, 0.01], [0.55, 0.45], [0.3, 0.7], [0.05, 0.95], [0.1, 0.9]]),
        "b": np.array([[0.9, 0.1], [0.98, 0.02], [0.60, 0.40], [0.51, 0.49], [0.2, 0.8], [0.3, 0.7]]),
    }
    assert explain.pick_examples(answers, [0] * 6) == {"easy": 1, "ambiguous": 2, "misclassified": 5}
    divided = {"a": np.array([[0.7, 0.3], [1.0, 0.0]]), "b": np.array([[0.7, 0.3], [0.49, 0.51]])}
    assert explain.pick_examples(divided, [0, 0])["easy"] == 0  # of the other, one is sure, but the other errs
    with pytest.raises(ValueError, match="Pass more images"):
        explain.pick_examples({"a": answers["a"]}, answers["a"].argmax(axis=1))


def test_examples_are_right_and_wrong_at_the_thresholds_of_their_models():
    """Below one half both answer the first class; by their thresholds "a" answers the second from .3 on."""
    answers = {
        "a": np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.71, 0.29], [0.2, 0.8]]),
        "b": np.array([[0.9, 0.1], [0.7, 0.3], [0.55, 0.45], [0.58, 0.42], [0.1, 0.9]]),
    }
    labels, limits = [0, 0, 1, 0, 1], {"a": 0.3, "b": 0.45}
    found = explain.pick_examples(answers, labels, limits)
    assert found == {"easy": 4, "ambiguous": 3, "misclassified": 1}  # 2 is right, exactly at b's threshold
    assert explain.pick_examples(answers, labels)["misclassified"] == 2  # where one half decides
    moved = explain._at_one_half(np.array([[0.7, 0.3], [0.4, 0.6]]), 0.3)
    np.testing.assert_allclose(moved, [[0.5, 0.5], [2 / 9, 7 / 9]])


def test_integrated_gradients_of_a_linear_model_are_its_terms(model, image):
    images = np.stack([image, image / 2])
    found = saliency.integrated_gradients(model, images, [1, 0], steps=3, batch_size=1)
    np.testing.assert_allclose(found[0], 2.0 * quadrant() * images[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(found[1], -2.0 * quadrant() * images[1, ..., 0], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_integrated_gradients_add_up_to_the_change_of_the_score(channels):
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((SIDE, SIDE, channels)), keras.layers.Conv2D(4, 3, activation="relu"),
                            keras.layers.Flatten(), keras.layers.Dense(5)])  # fmt: skip
    images = np.random.default_rng(1).random((6, SIDE, SIDE, channels)).astype(np.float32)
    labels, rows = np.array([0, 1, 2, 3, 4, 0]), np.arange(6)
    found = saliency.integrated_gradients(net, images, labels, baseline=0.3, steps=256)
    assert found.shape == (6, SIDE, SIDE)
    scores = [np.asarray(net(x)) for x in (images, np.full_like(images, 0.3))]
    change, start = ((s - s.mean(axis=1, keepdims=True))[rows, labels] for s in scores)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), change - start, atol=2e-3)
    assert np.abs(change - start).max() > 0.05


def test_what_is_added_to_all_logits_is_no_evidence(image):
    pixels = keras.Input((SIDE, SIDE, 1))
    common = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")(keras.layers.Flatten()(pixels))
    net = keras.Model(pixels, common)  # both logits are the sum of all pixels
    np.testing.assert_allclose(saliency.integrated_gradients(net, image[None], [1], steps=2), 0, atol=1e-6)


def test_a_right_map_deletes_faster_and_inserts_sooner_than_a_random_one_and_its_negative_is_worst(model, image):
    maps = {"right": quadrant(), "random": np.random.default_rng(0).random((SIDE, SIDE)), "negative": quadrant(-1.0)}
    areas = {}
    for name, found in maps.items():
        curves = saliency.deletion_insertion(model, image[None], found[None], [1], background=0.0, steps=16)
        areas[name] = {way: saliency.area(curve)[0] for way, curve in curves.items()}
    assert areas["right"]["deletion"] + 0.05 < areas["random"]["deletion"] < areas["negative"]["deletion"] - 0.05
    assert areas["right"]["insertion"] - 0.05 > areas["random"]["insertion"] > areas["negative"]["insertion"] + 0.05


def test_curves_start_and_end_at_the_whole_and_the_empty_image(model, image):
    curves = saliency.deletion_insertion(model, image[None], quadrant()[None], [1], background=0.0, steps=4)
    whole, empty = (saliency.probabilities(model, x)[0, 1] for x in (image[None], 0 * image[None]))
    np.testing.assert_allclose(curves["deletion"][0, [0, -1]], [whole, empty], rtol=1e-5)
    np.testing.assert_allclose(curves["insertion"][0, [0, -1]], [empty, whole], rtol=1e-5)
    np.testing.assert_allclose(curves["deletion"][0, 1], empty, rtol=1e-5)  # the right quarter is gone after a quarter


def test_only_pixels_that_can_be_hidden_count(model, image):
    half = image.copy()
    half[:, SIDE // 2 :] = 0
    curves = saliency.deletion_insertion(model, half[None], quadrant()[None], [1], background=0.0, steps=2)
    empty = saliency.probabilities(model, 0 * image[None])[0, 1]
    assert curves["deletion"][0, 1] == pytest.approx(empty, rel=1e-5)  # half of the 32 pixels are the quadrant's 16


def test_each_image_may_have_a_background_of_its_own(model, image):
    images, each = np.stack([image, image / 2]), np.array([0.1, 0.4], np.float32).reshape(2, 1, 1, 1)
    maps, labels = np.stack([quadrant(), quadrant()]), np.array([1, 0])
    together = saliency.deletion_insertion(model, images, maps, labels, background=each, steps=4)
    gradients = saliency.integrated_gradients(model, images, labels, baseline=each, steps=2, batch_size=1)
    for i, background in enumerate((0.1, 0.4)):
        one = images[i : i + 1], maps[i : i + 1], labels[i : i + 1]
        alone = saliency.deletion_insertion(model, *one, background=background, steps=4)
        for way, curve in alone.items():
            # Equal ranks are drawn: the ends, and the quarter that the map marks, are compared.
            np.testing.assert_allclose(together[way][i, [0, 1, -1]], curve[0, [0, 1, -1]], rtol=1e-5)
        by_itself = saliency.integrated_gradients(model, one[0], one[2], baseline=background, steps=2)
        np.testing.assert_allclose(gradients[i], by_itself[0], atol=1e-6)


def test_the_area_under_a_straight_line_is_a_half():
    np.testing.assert_allclose(saliency.area([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]), [0.5, 1.0])


def test_maps_and_labels_must_fit_the_images(model, image):
    with pytest.raises(ValueError, match="one map"):
        saliency.deletion_insertion(model, image[None], quadrant(), [1], background=0.0)
    with pytest.raises(ValueError, match="one integer for each"):
        saliency.integrated_gradients(model, image[None], [1, 0])


def test_edges_lie_on_edges_in_grey_and_in_colour():
    grey = np.zeros((1, SIDE, SIDE, 1), np.float32)
    grey[:, :, 4:] = 1
    found = saliency.edges(grey)
    assert found[0, :, 3:5].min() > 0.5 and found[0, :, :2].max() == 0
    np.testing.assert_allclose(saliency.edges(gray2rgb(grey[..., 0])), found, atol=1e-6)


def test_overlap_with_a_mask():
    found = saliency.mask_overlap(
        np.stack([quadrant(), quadrant(-1.0), np.zeros((SIDE, SIDE))]), np.stack([INSIDE] * 3)
    )
    np.testing.assert_allclose(found["inside"], [1, 0, 0])
    np.testing.assert_allclose(found["covered"], 0.25)
    np.testing.assert_allclose(found["hit"], [1, 0, 0.25])
    assert found["iou"][0] == 1 and found["iou"][1] == 0
    np.testing.assert_allclose(found["iou_by_chance"], 0.25 / 1.75)
    with pytest.raises(ValueError, match="expected bool"):
        saliency.mask_overlap(quadrant()[None], quadrant()[None])


def test_segment_sums_keep_the_whole():
    sums = explain.segment_sums([[1.0, 2.0], [3.0, 4.0]], [[0, 1], [1, 2]])
    np.testing.assert_array_equal(sums, [1, 5, 4])


def test_an_explanation_in_words_names_answers_places_and_likeness():
    segments = np.arange(9).reshape(3, 3).repeat(2, axis=0).repeat(2, axis=1)
    visible = np.arange(9) != 4
    teacher = np.where(visible, np.linspace(0.4, -0.4, 9), 9.0)  # the middle one is background: no piece to speak of
    found = explain.Explanation(
        np.zeros((6, 6, 1)), segments, visible, {"teacher": {1: teacher}, "student": {1: -teacher}},
        {"teacher": np.array([0.2, 0.8]), "student": np.array([0.75, 0.25])},
    )  # fmt: skip
    assert explain.told(found, 1, ["HP", "SSA"]) == (
        "The teacher answers SSA (0.80); for SSA the piece at the upper left speaks most (+0.40). "
        "The student answers HP (0.75); for SSA the piece at the lower right speaks most (+0.40), and its ranking of "
        "the pieces has a correlation of -1.00 with the teacher's."
    )
    found.weights["teacher"] = {1: np.where(visible, np.linspace(-0.4, -0.1, 9), 9.0)}
    assert explain.told(found, 1, ["HP", "SSA"]).startswith(
        "The teacher answers SSA (0.80); no piece speaks for SSA, and the one at the upper left speaks most against it "
        "(-0.40). The student"
    )
