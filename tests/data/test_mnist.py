import hashlib
import socket
import zipfile

import keras
import numpy as np
import pytest

from utils.data import load_mnist, mnist
from utils.data.download import TIMEOUT


def make_arrays():
    """Arrays of MNIST's form: each image's first pixels spell its row, the labels run around."""
    arrays = {}
    for part, n in (("train", 60000), ("test", 10000)):
        rows = np.arange(n, dtype=np.uint32)
        images = np.zeros((n, 28, 28), np.uint8)
        images[:, 0, :4] = rows.view(np.uint8).reshape(n, 4)
        arrays[f"x_{part}"], arrays[f"y_{part}"] = images, (rows % 10).astype(np.uint8)
    return arrays


ARRAYS = make_arrays()


@pytest.fixture(autouse=True)
def expected_digest(monkeypatch):
    sha = hashlib.sha256(b"".join(ARRAYS[key].tobytes() for key in ("x_train", "y_train", "x_test", "y_test")))
    monkeypatch.setattr(mnist, "SHA256", sha.hexdigest())


@pytest.fixture(autouse=True)
def download(monkeypatch):
    """Keras's download, replaced: set .answer to arrays or to an error; .calls counts."""

    class Download:
        answer = OSError("no network\nhere")
        calls = 0
        timeout = None

        def __call__(self):
            self.calls += 1
            self.timeout = socket.getdefaulttimeout()
            if isinstance(self.answer, Exception):
                raise self.answer
            a = self.answer
            return (a["x_train"], a["y_train"]), (a["x_test"], a["y_test"])

    fake = Download()
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fake)
    return fake


def save(folder, **changes):
    """mnist.npz of the fake arrays, with changes; None leaves an array out."""
    arrays = {key: array for key, array in (ARRAYS | changes).items() if array is not None}
    np.savez(folder / "mnist.npz", **arrays)
    return folder / "mnist.npz"


def row_of(images):
    return np.ascontiguousarray(images[:, 0, :4, 0]).view(np.uint32)[:, 0]


@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_a_good_file_is_taken_without_a_download(tmp_path, download, capsys, source):
    save(tmp_path)
    dataset = load_mnist(source, tmp_path)
    assert download.calls == 0
    assert dataset.source == "MNIST, 60,000 + 10,000"
    assert not dataset.standin
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [55000, 5000, 10000]
    assert dataset.train.images.shape[1:] == (28, 28, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == (["DATA: MNIST, 60,000 + 10,000, from mnist.npz."] if source == "auto" else [])


def test_the_split_is_stratified_disjoint_fixed_and_in_order(tmp_path):
    save(tmp_path)
    dataset = load_mnist("mnist", tmp_path)
    for split in (dataset.train, dataset.validation, dataset.test, dataset.all_train):
        rows = row_of(split.images)
        np.testing.assert_array_equal(rows, split.rows)
        np.testing.assert_array_equal(split.labels, rows % 10)
        assert np.all(np.diff(split.rows) > 0)
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [500] * 10)
    np.testing.assert_array_equal(dataset.all_train.rows, np.arange(60000))
    np.testing.assert_array_equal(dataset.validation.rows[:5], [10, 18, 25, 38, 46])


def test_other_containers_of_the_same_arrays_are_taken(tmp_path):
    changes = {"y_train": ARRAYS["y_train"].astype(">i8"), "x_test": np.asfortranarray(ARRAYS["x_test"])}
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS | changes | {"note": np.array("more than needed")})
    dataset = load_mnist("mnist", tmp_path)
    np.testing.assert_array_equal(row_of(dataset.test.images), np.arange(10000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None, "images": np.zeros(3)}, "lacks x_test and holds x_train, y_train, y_test, images"),
        ({"x_train": ARRAYS["x_train"][:-1]}, r"x_train has shape \(59999, 28, 28\), expected \(60000, 28, 28\)"),
        ({"x_test": ARRAYS["x_test"][..., None]}, r"x_test has shape \(10000, 28, 28, 1\)"),
        ({"x_test": ARRAYS["x_test"].view(np.int8)}, "x_test is of type int8, expected uint8"),
        ({"y_test": ARRAYS["y_test"].astype(np.float32)}, "y_test is of type float32, expected integers"),
        ({"y_test": ARRAYS["y_test"].astype(object)}, "y_test is of type object, expected integers"),
        ({"y_test": ARRAYS["y_test"] + 1}, "labels y_test run from 1 to 10, expected 0 to 9"),
        ({"y_train": ARRAYS["y_train"].astype(np.int16) - 1}, "labels y_train run from -1 to 8"),
        ({"x_test": ARRAYS["x_test"][::-1]}, "the values differ"),
        ({"y_test": ARRAYS["y_test"][::-1]}, "the values differ"),
        ({"x_train": ARRAYS["x_train"].astype(np.uint16)}, "unpacks to 102 MB"),
    ],
)
def test_a_wrong_file_is_an_error_and_never_skipped(tmp_path, download, changes, message):
    path = save(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_mnist("auto", tmp_path)
    assert str(path) in str(caught.value)
    assert "Delete it" in str(caught.value)
    assert mnist.URL in str(caught.value)
    assert download.calls == 0


def truncate(path):
    save(path.parent)
    path.write_bytes(path.read_bytes()[:1_000_000])


def damage_data(path):
    np.savez_compressed(path, **ARRAYS)
    data = bytearray(path.read_bytes())
    data[1000:1100] = b"\xff" * 100
    path.write_bytes(data)


def unknown_compression(path):
    save(path.parent)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")  # the first entry of the table of contents, which zipfile goes by
    data[start + 10 : start + 12] = (99).to_bytes(2, "little")
    path.write_bytes(data)


def encrypted(path):
    save(path.parent)
    data = bytearray(path.read_bytes())
    for start in (data.index(b"PK\x01\x02") + 8, data.index(b"PK\x03\x04") + 6):
        data[start] |= 1
    path.write_bytes(data)


def other_members(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for key in ARRAYS:
            archive.writestr(f"{key}.npy", content)


def header(version, shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"truncated or no npz at all .*1,000,000 bytes that begin with b'PK"),
        (damage_data, "cannot be read .*error|damaged"),
        (unknown_compression, "cannot be read .*compression"),
        (encrypted, "cannot be read .*encrypted"),
        (lambda path: path.write_bytes(b""), "truncated or no npz at all .*0 bytes"),
        (lambda path: path.write_text("<html>not found"), "no npz at all .*<html>not found"),
        (lambda path: path.mkdir(), "cannot be read .*IsADirectoryError"),
        (lambda path: path.symlink_to(path.parent / "gone"), "cannot be read .*FileNotFoundError"),
        (lambda path: other_members(path, b""), "EOF"),
        (lambda path: other_members(path, b"hello, I am no array"), "magic string is not correct"),
        (lambda path: other_members(path, header(9, (60000, 28, 28))), r"version \(9, 0\)"),
        (lambda path: other_members(path, header(1, (10**12,))), r"x_train has shape \(1000000000000,\)"),
        (lambda path: other_members(path, header(2, (60000, 28, 28))), "EOF: reading array data"),
    ],
)
def test_a_broken_file_is_an_error_and_never_skipped(tmp_path, download, spoil, message):
    path = tmp_path / "mnist.npz"
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_mnist("auto", tmp_path)
    assert str(path) in str(caught.value)
    assert mnist.URL in str(caught.value)
    assert download.calls == 0


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ARRAYS:
            archive.writestr(f"{key}.npy", bytes(20_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("a member was opened"))
    with pytest.raises(ValueError, match="unpacks to 80 MB"):
        load_mnist("auto", tmp_path)


def test_pickles_are_never_loaded(tmp_path):
    ran = []

    class Trap:
        def __reduce__(self):
            return (ran.append, (1,))

    save(tmp_path, y_test=np.array([Trap()] * 3, dtype=object))
    with pytest.raises(ValueError, match="y_test"):
        load_mnist("auto", tmp_path)
    assert not ran


@pytest.mark.parametrize("source", ["auto", "mnist"])
def test_without_a_file_the_download_is_taken_under_a_timeout(tmp_path, download, capsys, source):
    download.answer = ARRAYS
    before = socket.getdefaulttimeout()
    dataset = load_mnist(source, tmp_path)
    assert dataset.name == "MNIST"
    assert download.timeout == TIMEOUT
    assert socket.getdefaulttimeout() == before
    assert ("from Keras's download" in capsys.readouterr().out) == (source == "auto")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OSError("no network\nhere"), "OSError: no network here"),
        (ValueError("hash"), "ValueError: hash"),
        (ARRAYS | {"x_test": ARRAYS["x_test"][:5]}, "x_test has shape (5, 28, 28)"),
        (ARRAYS | {"y_train": ARRAYS["y_train"][::-1]}, "the values differ"),
    ],
)
def test_when_the_download_fails_auto_takes_the_standin_and_says_so(tmp_path, download, capsys, answer, reason):
    download.answer = answer
    assert load_mnist("auto", tmp_path).standin
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "NOT MNIST" in out
    assert reason in out
    assert "its numbers are not MNIST's" in out
    assert socket.getdefaulttimeout() is None


def test_when_the_download_fails_mnist_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no network here") as caught:
        load_mnist("mnist", tmp_path)
    assert str(tmp_path / "mnist.npz") in str(caught.value)
    assert mnist.URL in str(caught.value)


def test_the_standin_by_name_looks_at_nothing_else(tmp_path, download):
    (tmp_path / "mnist.npz").write_text("bad")
    assert load_mnist("standin", tmp_path).standin
    assert download.calls == 0


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"source is 'MNIST'; it can be one of \('auto'"):
        load_mnist("MNIST")
