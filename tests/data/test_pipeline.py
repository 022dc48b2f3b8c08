import numpy as np
import pytest
import tensorflow as tf

from utils.data import Split, pipeline
from utils.data.pipeline import StainView, View, augment, batches, steps, to_float
from utils.data.views import seed_of

N = 23
STILL = View(0, 0, 0)


@pytest.fixture
def split():
    """Noise, and labels that can be told from the image: its first pixel."""
    images = np.random.default_rng(0).integers(0, 256, (N, 28, 28, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(N)
    return Split(images, np.arange(N, dtype=np.int32))


def collect(split, **arguments):
    return list(batches(split, **({"batch_size": 5} | arguments)).as_numpy_iterator())


def joined(parts, key):
    return np.concatenate([part[key] for part in parts])


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def apply(image, view, *, seed=0, epoch=0, index=0, size=N):
    images = np.asarray(image, np.float32)[np.newaxis, ..., np.newaxis]
    return augment(images, [index], view=view, seed=seed, epoch=epoch, size=size)[0, ..., 0].numpy()


# Order


def test_elements_have_the_promised_types_and_values(split):
    element = collect(split)[0]
    types = {key: value.dtype for key, value in element.items()}
    assert types == {"image": "f4", "label": "i4", "index": "i8", "epoch": "i8"}
    assert element["image"].shape == (5, 28, 28, 1)
    np.testing.assert_allclose(element["image"], split.images[element["index"]] / 255, atol=1e-7)
    np.testing.assert_array_equal(element["label"], element["index"])


def test_floats_run_from_exactly_0_to_exactly_1():
    values = to_float(np.arange(256, dtype=np.uint8)).numpy()
    assert values[0] == 0
    assert values[255] == 1
    np.testing.assert_allclose(values, np.arange(256) / 255, rtol=1e-6)


def test_the_same_seed_gives_the_same_batches_and_another_seed_another_order(split):
    assert_same(collect(split, epochs=2, view=View()), collect(split, epochs=2, view=View()))
    assert not np.array_equal(joined(collect(split), "index"), joined(collect(split, seed=1), "index"))


def test_each_epoch_has_each_image_once_in_another_order_and_no_batch_straddles(split):
    parts = collect(split, epochs=3)
    assert [len(part["index"]) for part in parts] == [5, 5, 5, 5, 3] * 3
    assert [int(part["epoch"]) for part in parts] == [0] * 5 + [1] * 5 + [2] * 5
    orders = [joined(parts[5 * e : 5 * e + 5], "index") for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert len({tuple(order) for order in orders} | {tuple(range(N))}) == 4


def test_without_shuffle_the_order_is_that_of_the_split(split):
    np.testing.assert_array_equal(joined(collect(split, shuffle=False, epochs=2), "index"), np.tile(np.arange(N), 2))


def test_the_number_of_batches_is_known_beforehand(split):
    assert batches(split, batch_size=5, epochs=3).cardinality() == 15 == 3 * steps(N, 5)
    assert [steps(10, 5), steps(11, 5), steps(1, 5)] == [2, 3, 1]


def test_a_run_taken_up_again_sees_what_the_whole_run_sees(split):
    signals = np.random.default_rng(0).normal(size=(4, N, 2)).astype(np.float32)
    whole = collect(split, epochs=4, view=View(), signals={"logits": signals})
    tail = collect(split, epochs=2, first_epoch=2, view=View(), signals={"logits": signals[2:]})
    assert_same(whole[10:], tail)


def test_the_pipeline_has_one_thread_of_its_own_and_never_changes_the_order(split):
    options = batches(split, batch_size=8).options()
    assert options.threading.private_threadpool_size == 1 and not options.autotune.enabled and options.deterministic


def test_large_arrays_are_captured_and_not_written_into_the_graph(split):
    images = np.zeros((4000, 28, 28, 1), np.uint8)
    data = batches(Split(images, np.zeros(4000, np.int32)), batch_size=5, signals={"x": np.zeros((1, 4000, 99))})
    while not data._functions():  # down to the flat_map, whose graph holds that of the map
        data = data._input_dataset
    for function in data._functions():
        assert len(function.function.graph.as_graph_def().SerializeToString()) < 100_000


# Teacher signals


def test_signals_stay_with_their_images_through_the_shuffle(split):
    signals = {
        "logits": np.arange(N, dtype=np.float32)[np.newaxis, :, np.newaxis] * [1, 10],
        "feature": np.arange(N, dtype=np.int32).reshape(1, N, 1, 1) + np.zeros((1, 1, 2, 3), np.int32),
    }
    for part in collect(split, epochs=2, signals=signals):
        assert set(part["teacher"]) == {"feature", "logits"}
        np.testing.assert_array_equal(part["teacher"]["logits"], part["index"][:, np.newaxis] * [1, 10])
        np.testing.assert_array_equal(part["teacher"]["feature"][:, 1, 2], part["index"])


def test_each_epoch_gets_its_own_view_of_the_signals_counted_from_the_first(split):
    signals = 100 * np.arange(3)[:, np.newaxis] + np.arange(N)
    parts = collect(split, epochs=3, first_epoch=7, view=View(), signals={"s": signals})
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part["teacher"]["s"], 100 * (number // 5) + part["index"])


def test_without_signals_there_is_no_teacher(split):
    assert "teacher" not in collect(split)[0]
    assert "teacher" not in collect(split, signals={})[0]


# Views


def test_the_pipeline_shows_exactly_what_augment_gives_alone(split):
    view = View()
    parts = collect(split, batch_size=6, seed=3, epochs=2, view=view)
    for number, part in enumerate(parts):
        images = to_float(split.images[part["index"]])
        alone = augment(images, part["index"], view=view, seed=3, epoch=number // 4, size=N)
        np.testing.assert_array_equal(part["image"], alone)
        assert not np.array_equal(part["image"], images)


def test_view_v_of_image_i_is_the_same_picture_in_any_order_and_batch_size(split):
    def by_index(**arguments):
        parts = collect(split, view=View(), **arguments)
        return joined(parts, "image")[np.argsort(joined(parts, "index"))]

    np.testing.assert_array_equal(by_index(batch_size=5), by_index(batch_size=N, shuffle=False))
    assert not np.array_equal(by_index(first_epoch=1), by_index(first_epoch=0))
    assert not np.array_equal(by_index(seed=1), by_index(seed=0))


def test_views_differ_from_image_to_image(split):
    same = np.repeat(to_float(split.images[:1]), N, axis=0)
    pictures = augment(same, np.arange(N), view=View(), seed=0, epoch=0, size=N).numpy()
    assert len(np.unique(pictures.reshape(N, -1), axis=0)) == N


def test_the_order_and_the_views_of_all_epochs_have_seeds_of_their_own():
    assert len({tuple(seed_of(3, epoch, stream).numpy()) for epoch in range(5) for stream in range(4)}) == 20


def test_no_change_is_the_identity(split):
    images = to_float(split.images)
    still = augment(images, np.arange(N), view=STILL, seed=0, epoch=0, size=N)
    np.testing.assert_allclose(still, images, atol=1e-6)


def draw(view, blob=(6, 0), size=2000):
    """Where a blob that lies at (x, y) from the centre goes in many draws of a view: x [size], y [size]."""
    y, x = np.mgrid[:28, :28] - 13.5
    picture = np.exp(-((x - blob[0]) ** 2 + (y - blob[1]) ** 2) / 8).astype(np.float32)
    images = tf.convert_to_tensor(np.repeat(picture[np.newaxis, ..., np.newaxis], size, axis=0))
    views = augment(images, np.arange(size), view=view, seed=0, epoch=0, size=size).numpy()[..., 0]
    mass = views.sum((1, 2))
    return (views * x).sum((1, 2)) / mass, (views * y).sum((1, 2)) / mass


def assert_uniform(values, low, high, tolerance):
    """Range, mean and spread of a uniform distribution."""
    width = high - low
    np.testing.assert_allclose([values.min(), values.max()], [low, high], atol=0.01 * width + tolerance)
    assert abs(values.mean() - (low + high) / 2) < 0.03 * width
    assert abs(values.std() - width / 12**0.5) < 0.03 * width


def test_shifts_are_uniform_in_pixels_both_ways_and_not_whole():
    x, y = draw(View(2, 0, 0))
    x = x - 6
    assert_uniform(x, -2, 2, 0.01)
    assert_uniform(y, -2, 2, 0.01)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.08
    assert np.abs(x - np.round(x)).mean() > 0.2


def test_rotations_are_uniform_in_degrees_about_the_centre():
    x, y = draw(View(0, 30, 0))
    assert_uniform(np.degrees(np.arctan2(y, x)), -30, 30, 0.1)
    np.testing.assert_allclose(np.hypot(x, y), 6, atol=0.02)


def test_zooms_are_uniform_about_the_centre():
    x, y = draw(View(0, 0, 0.2))
    assert_uniform(x / 6, 0.8, 1.2, 0.005)
    np.testing.assert_allclose(y, 0, atol=1e-3)


def test_shears_slide_the_rows_by_angles_that_are_uniform():
    x, y = draw(View(0, 0, 0, shear=20), blob=(0, 6))
    assert_uniform(np.degrees(np.arctan2(-x, y)), -20, 20, 0.2)
    np.testing.assert_allclose(y, 6, atol=0.02)


def test_mixup_blends_each_image_with_another_whose_share_is_the_smaller(split):
    mixed = View(2, 10, 0.1, mixup=True)
    plain, parts = (collect(split, batch_size=N, shuffle=False, view=view)[0] for view in (View(2, 10, 0.1), mixed))
    flat = plain["image"].reshape(N, -1)
    shares, partners = [], []
    for number, picture in enumerate(parts["image"].reshape(N, -1)):
        fits = [np.linalg.lstsq(np.stack([flat[number], other], 1), picture, rcond=None) for other in flat]
        residues = [
            np.abs(np.stack([flat[number], o], 1) @ fit[0] - picture).max() for o, fit in zip(flat, fits, strict=True)
        ]
        partners.append(int(np.argmin(residues)))
        assert min(residues) < 1e-5
        share, rest = fits[partners[-1]][0]
        assert share + rest == pytest.approx(1, abs=1e-4)
        shares += [share] if partners[-1] != number else []
    assert sorted(partners) == list(range(N))  # each is some image's partner once
    assert 0.5 <= min(shares) < 0.6 and 0.9 < max(shares) <= 1
    assert not np.array_equal(
        parts["image"], collect(split, batch_size=N, shuffle=False, view=mixed, seed=1)[0]["image"]
    )
    np.testing.assert_array_equal(parts["label"], plain["label"])


def test_the_worked_number_of_mixup(monkeypatch):
    pair = Split(np.array([[0, 1, 2], [4, 2, 0]], np.uint8).reshape(2, 1, 3, 1), np.array([0, 1], np.int32))
    shares = tf.constant([0.3, 0.6])
    monkeypatch.setattr(pipeline, "partners", lambda *_: (tf.constant([1, 0], tf.int64), shares))
    (batch,) = collect(pair, shuffle=False, view=View(0, 0, 0, mixup=True))
    np.testing.assert_allclose(255 * batch["image"][:, 0, :, 0], [[2.8, 1.7, 0.6], [2.4, 1.6, 0.8]], rtol=1e-5)


def test_mixup_is_the_same_picture_in_any_order(split):
    def by_index(**arguments):
        parts = collect(split, view=View(mixup=True), **arguments)
        return joined(parts, "image")[np.argsort(joined(parts, "index"))]

    np.testing.assert_array_equal(by_index(batch_size=5), by_index(batch_size=N, shuffle=False))


def test_a_number_of_views_comes_again_under_another_order(split):
    signals = np.stack([100 * v + np.arange(N) for v in range(2)]).astype(np.float32)[..., None]
    parts = collect(split, batch_size=N, epochs=5, view=View(), views=2, signals={"s": signals})
    by_index = [part["image"][np.argsort(part["index"])] for part in parts]
    np.testing.assert_array_equal(by_index[0], by_index[2])
    np.testing.assert_array_equal(by_index[1], by_index[3])
    assert not np.array_equal(by_index[0], by_index[1]) and not np.array_equal(parts[0]["index"], parts[2]["index"])
    for epoch, part in enumerate(parts):
        np.testing.assert_array_equal(part["teacher"]["s"][:, 0], 100 * (epoch % 2) + part["index"])
        assert part["epoch"] == epoch


def test_images_on_disk_come_as_those_in_memory(split, tmp_path):
    np.save(tmp_path / "images.npy", split.images)
    mapped = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), split.labels)
    assert isinstance(mapped.images, np.memmap)
    for view in (None, View(mixup=True)):
        assert_same(collect(split, epochs=2, view=view), collect(mapped, epochs=2, view=view))


@pytest.fixture
def tissue():
    return np.random.default_rng(0).random((64, 9, 9, 3)).astype(np.float32)


def stained(images, view, epoch=0):
    return augment(images, np.arange(len(images)), view=view, seed=0, epoch=epoch, size=len(images)).numpy()


def test_turns_and_flips_are_all_eight_and_exact(tissue):
    seen = set()
    for image, turned in zip(tissue, stained(tissue, StainView(0, 0)), strict=True):
        candidates = [np.rot90(flipped, k) for flipped in (image, image[:, ::-1]) for k in range(4)]
        (match,) = [i for i, candidate in enumerate(candidates) if np.allclose(candidate, turned, atol=1e-6)]
        seen.add(match)
    assert seen == set(range(8))


def test_stain_scales_what_each_channel_absorbs_and_light_the_whole(tissue):
    flat = np.full((4000, 4, 4, 3), 0.6, np.float32)
    seen = stained(flat, StainView(0.2, 0.0))[:, 0, 0]
    np.testing.assert_allclose(seen, stained(flat, StainView(0.2, 0.0))[:, 3, 2])
    for channel in seen.T:
        assert_uniform(channel, 1 - 0.4 * 1.2, 1 - 0.4 * 0.8, 1e-4)
    assert abs(np.corrcoef(seen.T)[0, 1]) < 0.15
    lit = stained(flat, StainView(0.0, 0.3))[:, 0, 0]
    np.testing.assert_allclose(lit[:, 0], lit[:, 1], rtol=1e-6)
    assert_uniform(lit[:, 0], 0.6 * 0.7, 0.6, 1e-4)
    assert stained(np.ones((8, 4, 4, 3), np.float32), StainView(0.3, 0.0)).min() == 1
    assert not np.array_equal(stained(tissue, StainView(), epoch=1), stained(tissue, StainView()))


def test_only_square_images_are_turned_and_impossible_ranges_refused():
    with pytest.raises(ValueError, match="cannot be turned"):
        stained(np.zeros((2, 4, 6, 3), np.float32), StainView())
    for options in ({"stain": 1.0}, {"light": -0.1}):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            StainView(**options)


def test_subclasses_come_with_their_images(split):
    finer = Split(split.images, split.labels, subclasses=split.labels * 2)
    for part in collect(finer):
        np.testing.assert_array_equal(part["subclass"], 2 * part["label"])
    assert "subclass" not in collect(split)[0]


def test_signals_on_disk_are_joined_like_those_in_memory(split, tmp_path):
    signals = np.random.default_rng(0).random((2, N, 3)).astype(np.float32)
    np.save(tmp_path / "s.npy", signals)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    assert_same(collect(split, epochs=2, signals={"s": signals}), collect(split, epochs=2, signals={"s": mapped}))


def test_a_view_never_mirrors():
    x, y = draw(View(1, 20, 0.2), blob=(3.5, -6))  # above and to the right, and so it stays
    assert x.min() > 0
    assert y.max() < 0


def test_what_comes_from_outside_is_black():
    seen = [apply(np.ones((28, 28)), View(6, 0, 0), index=index).min() for index in range(N)]
    assert min(seen) == 0
    assert apply(np.ones((28, 28)), View(6, 20, 0.3)).max() <= 1 + 1e-6


def test_images_with_colours_and_other_sizes_are_moved_channel_by_channel():
    images = np.random.default_rng(0).random((4, 12, 20, 3), np.float32)
    call = {"view": View(), "seed": 0, "epoch": 0, "size": 4}
    together = augment(images, np.arange(4), **call)
    assert together.shape == images.shape
    for channel in range(3):
        alone = augment(images[..., channel : channel + 1], np.arange(4), **call)
        np.testing.assert_array_equal(together[..., channel : channel + 1], alone)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"first_epoch": -1}, "first_epoch -1"),
        ({"views": 0}, "views 0"),
        ({"batch_size": 0}, "batches of 0"),
        ({"signals": {"s": np.zeros((1, N + 1, 2))}}, r"signal 's' has shape \(1, 24, 2\).* n = 23"),
        ({"signals": {"s": np.zeros((2, N, 2))}, "epochs": 3}, "1 view or one for each of 3 epochs"),
        ({"signals": {"s": np.zeros(N)}}, "expected"),
        ({"signals": {"s": np.zeros((1, N))}, "epochs": 2, "view": View()}, "has 1 view, but"),
    ],
)
def test_bad_arguments_are_refused_in_words(split, arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(split, **({"batch_size": 5} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -1}, "shift is -1"),
        ({"shift": float("inf")}, "shift is inf"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"rotation": -1}, "rotation is -1"),
        ({"rotation": 200}, "rotation is 200"),
        ({"zoom": 1}, "zoom is 1"),
        ({"zoom": -0.1}, "zoom is -0.1"),
        ({"shear": 50}, "shear is 50"),
    ],
)
def test_an_impossible_view_is_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        View(**arguments)


@pytest.mark.parametrize(
    ("images", "indices", "message"),
    [
        (np.zeros((2, 28, 28, 1), np.uint8), [0, 1], "float32 .* got uint8"),
        (np.zeros((2, 28, 28), np.float32), [0, 1], "images must be"),
        (np.zeros((2, 28, 28, 1), np.float32), [0, 1, 2], "one for each of 2 images"),
        (np.zeros((2, 28, 28, 1), np.float32), [0.0, 1.0], "indices must be integers"),
    ],
)
def test_augment_refuses_what_it_cannot_place(images, indices, message):
    with pytest.raises(ValueError, match=message):
        augment(images, indices, view=View(), seed=0, epoch=0, size=N)


@pytest.mark.parametrize(("n", "batch_size"), [(0, 5), (5, 0)])
def test_steps_of_nothing_are_refused(n, batch_size):
    with pytest.raises(ValueError, match="at least 1"):
        steps(n, batch_size)
