"""MHIST's reader on small made-up folders: whatever people have, and whatever goes wrong with it."""

import io
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.data import mhist
from utils.data.mhist import MhistError, load_mhist

HEADER = "Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition"
TRAIN_VOTES = [0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6, 7, 7, 7, 7] * 4
TEST_VOTES = [0, 1, 3, 4, 6, 7]


def lines():
    rows = [(f"MHIST_a{i:02}.png", votes, "train") for i, votes in enumerate(TRAIN_VOTES)]
    rows += [(f"MHIST_b{i:02}.png", votes, "test") for i, votes in enumerate(TEST_VOTES)]
    return [f"{name},{'SSA' if votes >= 4 else 'HP'},{votes},{part}" for name, votes, part in rows]


def picture(i, size=(224, 224), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, {"RGB": (i, 2 * i, 200), "L": i, "RGBA": (i, 0, 0, 9)}[mode]).save(content, "PNG")
    return content.getvalue()


def names():
    return [line.split(",")[0] for line in lines()]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mhist_dataset"
    path.mkdir()
    (path / "annotations.csv").write_text("\n".join([HEADER, *lines()]), encoding="utf-8")
    write_zip(path)
    return path


def write_zip(path, changed=None, prefix="images/", left_out=()):
    with zipfile.ZipFile(path / "images.zip", "w") as archive:
        for i, name in enumerate(names()):
            if name not in left_out:
                archive.writestr(prefix + name, (changed or {}).get(name, picture(i)))
        archive.writestr(f"__MACOSX/{prefix}._{names()[0]}", b"resource fork")


def write_lines(folder, changed):
    (folder / "annotations.csv").write_text("\n".join([HEADER, *changed]), encoding="utf-8")


def load(folder, **options):
    return load_mhist("mhist", folder, cache=folder.parent / "cache", **options)


def test_what_is_read_is_what_was_given(folder, capsys):
    data = load(folder)
    assert data.class_names == ("HP", "SSA") and data.name == "MHIST" and not data.standin
    assert "not as published" in data.source and "WARNING" in capsys.readouterr().out
    votes = dict(zip(names(), TRAIN_VOTES + TEST_VOTES, strict=True))
    pixel = {tuple(np.array([i, 2 * i, 200], np.uint8)): name for i, name in enumerate(names())}
    seen = {"train": set(), "validation": set(), "test": set()}
    for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        assert split.images.shape[1:] == (224, 224, 3) and isinstance(split.images, np.memmap)
        for image, label, count in zip(split.images, split.labels, split.subclasses, strict=True):
            name = pixel[tuple(image[100, 50])]
            assert votes[name] == count and label == (count >= 4)
            seen[part].add(name)
    assert seen["test"] == {name for name in names() if "_b" in name}
    assert len(seen["validation"]) == round(0.15 * 64) and not seen["train"] & seen["validation"]
    assert len(data.all_train) == 64 and isinstance(data.all_train.images, np.memmap)
    np.testing.assert_array_equal(data.all_train.images[:54], data.train.images)


def test_the_same_whatever_the_order_of_lines_and_the_form_of_the_file(folder):
    expected = load(folder)
    text = "\r\n".join([HEADER.replace(",", " , "), *(line.replace(",", ", ") for line in reversed(lines())), ""])
    (folder / "annotations.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(folder).digest == expected.digest
    quoted = "\n".join(", ".join(f'"{cell}"' for cell in line.split(",")) for line in [HEADER, *lines()])
    (folder / "annotations.csv").write_text(quoted)
    assert load(folder).digest == expected.digest


@pytest.mark.parametrize("place", ["images", ".", "deep/images"])
def test_unzipped_or_zipped_is_the_same(folder, place):
    expected = load(folder)
    with zipfile.ZipFile(folder / "images.zip") as archive:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names()):
            (folder / place / name).write_bytes(picture(i))
        (folder / place / f"._{names()[0]}").write_bytes(b"resource fork")
        archive.close()
    (folder / "images.zip").unlink()
    assert load(folder).digest == expected.digest


@pytest.mark.parametrize("form", ["nested", "below", "IMAGES.ZIP", "beside a resource fork", "backslashes"])
def test_the_download_is_found_as_people_unpack_it(folder, form):
    plain = load(folder)  # before the files move
    archive, table = folder / "images.zip", folder / "annotations.csv"
    if form == "nested":
        inner = folder / "mhist_dataset"
        inner.mkdir()
        for path in (archive, table):
            path.rename(inner / path.name)
    elif form == "below":
        (folder / "images").mkdir()
        archive.rename(folder / "images" / "images.zip")
    elif form == "IMAGES.ZIP":
        archive.rename(folder / "images (1).ZIP")
    elif form == "beside a resource fork":
        archive.rename(folder / "images (1).zip")
        (folder / "._images (1).zip").write_bytes(b"resource fork")
    else:
        archive.unlink()
        write_zip(folder, prefix="images\\")
    found = load_mhist("mhist", folder, cache=folder.parent / "another cache")
    for part in ("train", "validation", "test"):
        one, other = getattr(plain, part), getattr(found, part)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_two_tables_below_the_folder_are_not_chosen_between(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "annotations.csv").write_bytes((folder / "annotations.csv").read_bytes())
    load(folder)  # the one in the folder itself comes first
    (folder / "annotations.csv").unlink()
    with pytest.raises(MhistError, match=r"2 files annotations.csv.*a/annotations.csv, b/annotations.csv"):
        load(folder)


def test_a_linked_folder_of_images_is_read_and_a_link_that_leads_back_ends(folder, tmp_path):
    expected = load(folder)
    with zipfile.ZipFile(folder / "images.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    (folder / "images.zip").unlink()
    (folder / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(folder, target_is_directory=True)
    assert load(folder).digest == expected.digest


def test_a_damaged_byte_in_the_zip_is_told_with_the_image_s_name(folder):
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, name in enumerate(names()):
            archive.writestr(name, picture(i))
        info = archive.getinfo(names()[2])
    content = bytearray((folder / "images.zip").read_bytes())
    begin = info.header_offset + 30 + len(info.filename)
    content[begin] ^= 0x06  # the kind of the first block: now one that deflate does not know
    (folder / "images.zip").write_bytes(content)
    with pytest.raises(MhistError, match=names()[2]):
        load(folder)
    assert not list((folder.parent / "cache").glob("*mhist.npy"))


def test_a_large_picture_that_nobody_asks_for_is_no_reason_to_refuse(folder, monkeypatch):
    with zipfile.ZipFile(folder / "images.zip") as archive:
        archive.extractall(folder)
    (folder / "images.zip").unlink()
    (folder / "overview.png").write_bytes(bytes(20_000))
    monkeypatch.setattr(mhist, "MAX_FILE", 15_000)
    assert len(load(folder).test) == len(TEST_VOTES)


def test_a_blank_line_does_not_shift_the_lines_that_are_told(folder):
    rows = lines()
    write_lines(folder, ["", rows[0], "", rows[1].rsplit(",", 1)[0], *rows[2:]])
    with pytest.raises(MhistError, match="too few columns: line 5"):
        load(folder)


@pytest.mark.parametrize("unzipped", [["preview.png"], names()[:5]], ids=["a stray picture", "an unzipping broken off"])
def test_pictures_beside_a_whole_zip_do_not_hide_it(folder, unzipped):
    expected = load(folder)
    for name in unzipped:
        (folder / name).write_bytes(picture(0))
    assert load(folder).digest == expected.digest


def test_images_that_lie_there_twice_are_taken_where_they_are_equal_and_refused_where_they_differ(folder):
    expected = load(folder)
    (folder / "images").mkdir()
    for i, name in enumerate(names()):
        (folder / name).write_bytes(picture(i))
        (folder / "images" / name).write_bytes(picture(i))
    assert load(folder).digest == expected.digest
    (folder / "images" / names()[1]).write_bytes(picture(0))
    with pytest.raises(MhistError, match=f"more than once, and differ: {names()[1]}"):
        load(folder)


def test_whole_unzipped_images_are_taken_before_a_damaged_zip(folder):
    expected = load(folder)
    for i, name in enumerate(names()):
        (folder / name).write_bytes(picture(i))
    (folder / "images.zip").write_bytes(b"cut off")
    assert load(folder).digest == expected.digest


def test_images_are_decoded_once_and_again_if_anything_changes(folder, monkeypatch, capsys):
    first = load(folder).digest
    with monkeypatch.context() as patched:
        patched.setattr(mhist, "_decoded", lambda *a: pytest.fail("decoded again"))
        assert load(folder).digest == first
    stored = folder.parent / "cache" / "mhist.npy"
    content = bytearray(stored.read_bytes())
    content[-5] ^= 255
    stored.write_bytes(content)
    assert load(folder).digest == first and "gone or damaged" in capsys.readouterr().out
    write_zip(folder, {names()[3]: picture(250)})
    assert load(folder).digest != first


def test_images_follow_their_labels_when_only_the_annotations_change(folder):
    load(folder)
    first, *others, last = lines()
    write_lines(folder, [first.replace("train", "test"), *others, last.replace("test", "train")])
    data, votes = load(folder), TRAIN_VOTES + TEST_VOTES
    for split in (data.train, data.validation, data.test):  # a picture's red is its place in the list
        assert [votes[red] for red in split.images[:, 0, 0, 0]] == split.subclasses.tolist()
    assert sorted(data.test.images[:, 0, 0, 0].tolist()) == [0, 64, 65, 66, 67, 68]


def test_validation_has_its_share_of_every_number_of_votes():
    rows = [
        mhist.Row(f"{part}{votes}{i:03}.png", votes, part)
        for part, counts in mhist.PUBLISHED.items()
        for votes, count in enumerate(counts)
        for i in range(count)
    ]
    ordered, second, third = mhist._in_order(rows)
    assert (third - second, third) == (326, 2175)
    found = np.bincount([row.votes for row in ordered[second:third]], minlength=8)
    assert np.abs(found - np.array(mhist.PUBLISHED["train"]) * 326 / 2175).max() < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [r.replace("HP", "hp") for r in rows],
            r"neither HP nor SSA: 'hp' \(MHIST_a00.png\).* and \d+ more",
        ),
        (lambda rows: [*rows[:-1], rows[-1].replace(",7,", ",8,")], "votes that are no number from 0 to 7: '8'"),
        (lambda rows: [*rows[:-1], rows[-1].replace(",7,", ",x,")], "votes that are no number"),
        (lambda rows: [rows[0].replace("HP,0", "SSA,0"), *rows[1:]], "against the majority of the votes: SSA with 0"),
        (lambda rows: [rows[0].replace("train", "valid"), *rows[1:]], "neither train nor test: 'valid'"),
        (lambda rows: [*rows, rows[0]], "listed more than once: MHIST_a00.png"),
        (lambda rows: [*rows, rows[0].replace("train", "test")], "in both partitions: MHIST_a00.png"),
        (lambda rows: ["../" + rows[0], *rows[1:]], "image names that are paths"),
        (lambda rows: [rows[0][rows[0].index(",") :], *rows[1:]], "without an image name: line 2"),
        (lambda rows: [rows[0].rsplit(",", 1)[0], *rows[1:]], "too few columns: line 2"),
        (lambda rows: [], "no lines at all"),
        (lambda rows: [r for r in rows if "HP" in r], "without images of both classes: train, test"),
    ],
)
def test_faulty_annotations_are_listed_and_counted(folder, change, message):
    write_lines(folder, change(lines()))
    with pytest.raises(MhistError, match=message):
        load(folder)
    assert not (folder.parent / "cache").exists()


def test_a_file_without_the_columns_or_no_file(folder):
    (folder / "annotations.csv").write_text("name;label\na;HP", encoding="utf-8")
    with pytest.raises(MhistError, match="lacks the columns"):
        load(folder)
    (folder / "annotations.csv").write_text(f"{HEADER}\n{'x' * 200_000},HP,0,train", encoding="utf-8")
    with pytest.raises(MhistError, match=r"annotations.csv is no table \(field larger"):
        load(folder)
    (folder / "annotations.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MhistError, match="no text in UTF-8"):
        load(folder)
    (folder / "annotations.csv").unlink()
    with pytest.raises(MhistError, match=r"no annotations.csv"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(1, (96, 96)), r"not RGB of 224 x 224 pixels.*MHIST_a00.png \(RGB, 96 x 96\)"),
        (picture(1, mode="L"), r"MHIST_a00.png \(L, 224 x 224\)"),
        (picture(1, mode="RGBA"), r"MHIST_a00.png \(RGBA"),
        (b"no picture", r"MHIST_a00.png \(UnidentifiedImageError\)"),
        (picture(1)[:200], r"MHIST_a00.png"),
    ],
)
def test_images_that_are_no_images_of_mhist_are_named_and_nothing_is_left(folder, content, message):
    write_zip(folder, {names()[0]: content})
    with pytest.raises(MhistError, match=message):
        load(folder)
    assert not [path for path in (folder.parent / "cache").glob("*") if path.suffix == ".npy"]


def test_missing_images_are_listed_and_counted(folder):
    write_zip(folder, left_out=names()[:8])
    with pytest.raises(MhistError, match=r"not there: MHIST_a00.png, .* and 3 more"):
        load(folder)


@pytest.mark.parametrize("prefix", ["../", "/tmp/", "images/../../", "C:/x/"])
def test_zip_entries_that_climb_out_are_refused(folder, prefix):
    write_zip(folder, prefix=prefix)
    with pytest.raises(MhistError, match="climb out of the folder"):
        load(folder)


def test_bombs_and_damaged_archives_are_refused(folder):
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(names()[0], bytes(3 * 2**20))
    with pytest.raises(MhistError, match=r"suspicious size: MHIST_a00.png"):
        load(folder)
    (folder / "images.zip").write_bytes(b"PK no archive")
    with pytest.raises(MhistError, match="damaged, truncated or no zip"):
        load(folder)
    (folder / "images.zip").unlink()
    with pytest.raises(MhistError, match="no images in"):
        load(folder)


def test_a_zip_that_holds_an_image_twice_or_locked_or_in_excess_is_refused(folder, monkeypatch):
    with zipfile.ZipFile(folder / "images.zip", "a") as archive:
        archive.writestr("elsewhere/" + names()[0], picture(0))
    with pytest.raises(MhistError, match=r"in the zip more than once: MHIST_a00.png"):
        load(folder)
    write_zip(folder)
    for limit, message in (
        ("MAX_FILE", "suspicious size: MHIST_a00.png"),
        ("MAX_TOTAL", "unpack to too much: 0.0 GiB"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(mhist, limit, 100)
            with pytest.raises(MhistError, match=message):
                load(folder)
    content = bytearray((folder / "images.zip").read_bytes())
    entry = content.index(b"PK\1\2")  # the first of the directory at the end
    content[entry + 8] |= 1  # the flag that says encrypted
    (folder / "images.zip").write_bytes(content)
    with pytest.raises(MhistError, match=r"encrypted zip entries: MHIST_a00.png"):
        load(folder)
    assert not (folder.parent / "cache").exists()


def test_an_unzipped_image_that_is_too_large_is_named(folder, monkeypatch):
    with zipfile.ZipFile(folder / "images.zip") as archive:
        archive.extractall(folder)
    (folder / "images.zip").unlink()
    large = next(folder.rglob(names()[3]))
    large.write_bytes(large.read_bytes() + bytes(20_000))
    monkeypatch.setattr(mhist, "MAX_FILE", 15_000)
    with pytest.raises(MhistError, match=f"too large: {names()[3]}"):
        load(folder)


def test_the_published_counts_need_no_warning(folder, monkeypatch, capsys):
    monkeypatch.setattr(
        mhist, "PUBLISHED", {"train": np.bincount(TRAIN_VOTES).tolist(), "test": [1, 1, 0, 1, 1, 0, 1, 1]}
    )
    data = load(folder)
    assert "not as published" not in data.source and "WARNING" not in capsys.readouterr().out


ONE_EPOCH = """
import sys
from utils.data import pipeline
from utils.data.mhist import load_mhist
from utils.data.views import StainView
from utils.progress import peak_memory

before = peak_memory()
data = load_mhist("mhist", sys.argv[1], cache=sys.argv[2])
images = sum(len(batch["label"]) for batch in pipeline.batches(data.train, batch_size=32, view=StainView()))
print(images, peak_memory() - before)
"""


def test_the_full_set_takes_less_than_a_gibibyte(tmp_path):
    """As many images as MHIST has, unpacked, decoded and shown for an epoch: what that adds to a process of its own."""
    folder = tmp_path / "mhist_dataset"
    folder.mkdir()
    rows, pictures = [], [picture(votes) for votes in range(8)]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for part, counts in mhist.PUBLISHED.items():
            for votes, count in enumerate(counts):
                for i in range(count):
                    rows.append(f"MHIST_{part}{votes}{i:03}.png,{'SSA' if votes >= 4 else 'HP'},{votes},{part}")
                    archive.writestr(rows[-1].split(",")[0], pictures[votes])
    write_lines(folder, rows)
    command = [sys.executable, "-c", ONE_EPOCH, str(folder), str(tmp_path / "cache")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    images, added = said.split()
    assert int(images) == 2175 - 326  # all but validation
    assert float(added) < 1, f"{added} GiB"


@pytest.mark.parametrize("name", ["mhist_dataset.zip", "MHIST", "annotations.csv"])
def test_auto_names_what_may_have_been_meant_to_be_mhist(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mhist, "load_polyps_standin", lambda **options: "the stand-in")
    load_mhist("auto", tmp_path / "mhist_dataset")
    assert "belong into" not in capsys.readouterr().out
    (tmp_path / name).touch()
    load_mhist("auto", tmp_path / "mhist_dataset")
    assert f"has {name}. If that is MHIST" in capsys.readouterr().out


def test_a_full_disk_is_an_error_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(mhist.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"MiB and .* has 0 left. Make room"):
        load_mhist("mhist", folder, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_auto_takes_the_folder_where_there_is_one_and_says_so(folder, tmp_path, capsys, monkeypatch):
    assert load_mhist("auto", folder, cache=tmp_path).name == "MHIST"
    assert "DATA: MHIST" in capsys.readouterr().out
    monkeypatch.setattr(mhist, "load_polyps_standin", lambda **options: "the stand-in")
    assert load_mhist("auto", tmp_path / "nowhere") == "the stand-in"
    assert "NOT MHIST" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(MhistError):  # a folder that is there but bad is never skipped
        load_mhist("auto", tmp_path / "empty", cache=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"bmirds.github.io/MHIST"):
        load_mhist("mhist", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="source is 'web'"):
        load_mhist("web")
