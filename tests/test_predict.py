"""A shipped student answers for pictures as people have them, and says in words what it cannot read."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from utils.data import load_mhist, load_mnist
from utils.export import export_student
from utils.predict import Refused, Student, main, native_messages_kept_back, prepare_digit, prepare_exact

ROOT = Path(__file__).resolve().parent.parent


def ridge_student(data):
    """A linear student in closed form: right for nine digits in ten, without training."""
    image = keras.Input((28, 28, 1))
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)), name="ridge")
    x, y = data.train.images.reshape(len(data.train), -1) / 255, np.eye(10)[data.train.labels]
    centre = x.mean(axis=0)
    weights = np.linalg.solve((x - centre).T @ (x - centre) + 30 * np.eye(784), (x - centre).T @ (y - 0.1))
    model.layers[-1].set_weights([20 * weights, -20 * centre @ weights])
    return model


@pytest.fixture(scope="module")
def data():
    return load_mnist("standin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("shipped")
    export_student(ridge_student(data), folder, data, formats=("float32", "int8"), rounds=3)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return folder / "ridge-float32.tflite"


def on_paper(image, size=(300, 200), height=120, at=(20, 50), paper=250, ink=20):
    """A digit [28, 28, 1] in dark ink on light paper, cut out, enlarged and off the centre, as a scanner would see."""
    rows, columns = (np.flatnonzero(image[..., 0].any(axis=axis)) for axis in (1, 0))
    cut = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0])
    cut = np.asarray(cut.resize((round(height * cut.width / cut.height), height), Image.Resampling.BICUBIC))
    sheet = np.full(size, paper, np.float32)
    sheet[at[0] : at[0] + cut.shape[0], at[1] : at[1] + cut.shape[1]] += (ink - paper) * (cut / 255.0)
    return Image.fromarray(sheet.astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, data):
    """Files by what they are, all of the first test digit."""
    folder = tmp_path_factory.mktemp("pictures")
    image, sheet = data.test.images[0], on_paper(data.test.images[0])
    Image.fromarray(image[..., 0]).save(folder / "mnist.png")
    sheet.save(folder / "paper.png")
    sheet.convert("RGB").save(folder / "paper.jpg", quality=90)
    (folder / "broken.png").write_bytes((folder / "paper.png").read_bytes()[:300])
    (folder / "words.png").write_text("no picture at all")
    sheet.save(folder / "paper.gif")
    Image.new("L", (50, 50), 200).save(folder / "blank.png")
    sheet.save(folder / "exif.png", exif=b"Exif\0\0II*\0")  # cut off in its header
    return folder


def test_a_digit_on_paper_becomes_what_mnist_would_have_made_of_it(data):
    for image in data.test.images[:20]:
        found = prepare_digit(on_paper(image))
        assert found.shape == (28, 28, 1) and found.min() >= 0 and found.max() == 1
        rows, columns = (np.flatnonzero(found[..., 0].any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20  # the box
        middle = [(found.sum(axis=(2, 1 - axis)) * np.arange(28)).sum() / found.sum() for axis in (0, 1)]
        assert max(abs(m - 14) for m in middle) < 0.6  # whole pixels only, so up to half a one off


def test_ink_is_ink_in_every_guise(data):
    image = data.test.images[3]
    expected = prepare_digit(on_paper(image))
    dark = on_paper(image)
    light = Image.fromarray(255 - np.asarray(dark))
    clear = Image.merge("LA", (Image.new("L", dark.size, 0), light))  # black ink on nothing
    deep = Image.fromarray(np.asarray(dark).astype(np.uint16) * 257)
    for same in (light, dark.convert("RGB"), dark.convert("P"), clear, deep):
        np.testing.assert_allclose(prepare_digit(same), expected, atol=0.03)
    np.testing.assert_allclose(prepare_digit(on_paper(image, paper=110, ink=60)), expected, atol=0.08)  # grey on grey
    moved = on_paper(image, size=(400, 400), at=(200, 230))
    np.testing.assert_allclose(prepare_digit(moved), expected, atol=0.01)


def test_a_picture_that_is_mnists_stays_as_it_is(data):
    for image in data.test.images[:50]:
        np.testing.assert_array_equal(prepare_digit(Image.fromarray(image[..., 0])), image / np.float32(255))


def test_proportions_are_kept_standing_and_lying():
    stroke = Image.new("L", (90, 130), 255)
    stroke.paste(0, (40, 15, 50, 115))  # ten wide, a hundred high
    lying = stroke.transpose(Image.Transpose.ROTATE_90)
    for picture, height, width in ((stroke, 20, 2), (lying, 2, 20)):
        found = prepare_digit(picture)[..., 0] > 0.5
        assert (found.any(axis=1).sum(), found.any(axis=0).sum()) == (height, width)


def test_digits_on_paper_are_read(folder, data):
    student = Student(folder / "ridge-int8.tflite")
    labels = data.test.labels[:120]
    assert (student.probabilities(data.test.images[:120]).argmax(-1) == labels).mean() > 0.9
    # The stand-in's digits are not centred by their mass, so a student of theirs reads prepared ones less well; one
    # that got them inverted or off the centre would be wrong about most.
    paper = np.stack([prepare_digit(on_paper(image)) for image in data.test.images[:120]])
    assert (student.probabilities(paper).argmax(-1) == labels).mean() > 0.7


def test_the_command_answers_what_it_can(model, pictures):
    files = [str(pictures / name) for name in ("mnist.png", "broken.png", "paper.jpg")]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "utils.predict", str(model), *files],
        cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    answered = [line.rpartition(": ") for line in run.stdout.splitlines()]
    assert [file for file, _, _ in answered] == [files[0], files[2]]
    assert len({said.split()[0] for _, _, said in answered}) == 1 and answered[0][2].endswith("%")
    # Python's own warnings are errors here; what TensorFlow says when it is first loaded is not ours.
    told = [line for line in run.stderr.splitlines() if line.startswith(str(pictures))]
    assert len(told) == 1 and "broken" in told[0] and "Traceback" not in run.stderr


def test_nothing_of_the_training_code_is_loaded():
    code = "import sys, utils.predict; print({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:]))"
    heavy = ["tensorflow", "keras", "sklearn", "scipy", "pandas", "matplotlib", "lime"]
    run = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_json_holds_every_answer(model, pictures, data, capsys):
    files = [str(pictures / name) for name in ("mnist.png", "gone.png", "paper.png")]
    assert main([str(model), *files, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    first, second, third = said["answers"]
    assert [answer["file"] for answer in said["answers"]] == files
    assert first["class"] == str(data.test.labels[0]) == third["class"]
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert first["probability"] == max(first["probabilities"].values()) == first["probabilities"][first["class"]]
    assert "no such file" in second["error"] and "class" not in second
    assert main([str(model), files[0], "--json"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.png", "broken"),
        ("words.png", "no PNG or JPEG"),
        ("paper.gif", "no PNG or JPEG"),
        ("blank.png", "contrast"),
        ("exif.png", "broken"),
        ("gone.png", "no such file"),
        ("", "folder"),
        ("mnist.png/x.png", "cannot be read"),
    ],
)
def test_each_bad_picture_is_refused_in_words(model, pictures, name, message, capsys):
    assert main([str(model), str(pictures / name)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and str(pictures / name) in said.err


def test_a_model_that_is_missing_or_not_what_its_card_says_is_refused(folder, model, pictures, tmp_path, capsys):
    def refusal(path):
        assert main([str(path), str(pictures / "mnist.png")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    assert "no model" in refusal(tmp_path / "gone.tflite")
    assert "is a folder" in refusal(".") and "is a folder" in refusal("/")
    assert "ridge-float32.tflite, ridge-int8.tflite" in refusal(folder)
    changed = tmp_path / model.name
    changed.write_bytes(model.read_bytes()[:-1] + b"!")
    assert "card must lie beside" in refusal(changed)
    shutil.copy(folder / "card.json", tmp_path)
    assert "sha256" in refusal(changed)
    assert "does not describe it" in refusal(changed.rename(tmp_path / "other.tflite"))
    card = json.loads((folder / "card.json").read_text())
    no_shape, no_digest = card | {"input": {"preparation": "digit"}}, card | {"files": {"float32": {"file": "x"}}}
    colour = card | {"input": card["input"] | {"shape": [32, 32, 3]}}  # no digit is prepared so
    thresholds = [card | {"threshold": threshold} for threshold in ("0.5", 0.5, [])]  # of ten classes there is none
    damaged = ("null", "5", "{}", "[]", card | {"input": []}, card | {"classes": 10}, no_shape, no_digest, colour)
    damaged += (card | {"data": None}, *thresholds)
    for text in ("{", *damaged):
        (tmp_path / "card.json").write_text(text if isinstance(text, str) else json.dumps(text))
        assert "no card" in refusal(tmp_path / "other.tflite")
    files = {"float32": {"file": "other.tflite", "sha256": hashlib.sha256(b"no student").hexdigest()}}
    (tmp_path / "other.tflite").write_bytes(b"no student")
    (tmp_path / "card.json").write_text(json.dumps(card | {"files": files}))
    assert "cannot load other.tflite" in refusal(tmp_path / "other.tflite")
    shutil.copy(model, tmp_path)
    (tmp_path / "card.json").write_text(json.dumps(card | {"classes": ["0", "1", "2"]}))
    assert "3 classes; the file takes [28, 28, 1] and gives 10" in refusal(tmp_path / model.name)
    assert main([str(tmp_path / "gone.tflite"), "x.png", "--json"]) == 2
    assert "no model" in json.loads(capsys.readouterr().out)["error"]


def test_a_picture_that_must_fit_is_taken_or_refused():
    wanted = {"shape": [8, 8, 3], "resize": False}
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    np.testing.assert_allclose(prepare_exact(Image.fromarray(pixels), wanted), pixels / 255, atol=1e-7)
    for picture, message in (
        (Image.new("L", (8, 8)), "RGB is needed"),
        (Image.new("RGB", (16, 16)), "16x16; 8x8 is needed"),
        (Image.new("RGB", (16, 8)), "crop it"),
        (Image.new("RGB", (16, 4)), "take a larger one"),
    ):
        with pytest.raises(Refused, match=message):
            prepare_exact(picture, wanted)
    may = wanted | {"resize": True}
    assert prepare_exact(Image.new("RGB", (16, 16), "white"), may).tolist() == np.ones((8, 8, 3)).tolist()
    with pytest.raises(Refused, match="1:1"):
        prepare_exact(Image.new("RGB", (16, 8)), may)


def test_colours_in_another_form_are_the_same_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    wanted = {"shape": [8, 8, 3], "resize": False}
    for mode in ("RGBA", "P"):
        picture = Image.fromarray(pixels).convert(mode)
        same = np.asarray(picture.convert("RGB")) / 255
        np.testing.assert_allclose(prepare_exact(picture, wanted), same, atol=1e-7)
    glass = Image.fromarray(pixels).convert("RGBA")
    glass.putpixel((0, 0), (0, 0, 0, 0))
    with pytest.raises(Refused, match="RGB is needed"):
        prepare_exact(glass, wanted)


def test_a_student_of_colour_pictures_answers_and_explains(tmp_path, capsys):
    image = keras.Input((96, 96, 3))
    dense = keras.layers.Dense(2, kernel_initializer="zeros")
    model = keras.Model(image, dense(keras.layers.GlobalAveragePooling2D()(image)), name="redness")
    dense.set_weights([np.array([[-4, 4], [0, 0], [0, 0]], np.float32), np.array([2, -2], np.float32)])  # red above .5
    data = load_mhist("standin", standin={"train": 80, "test": 20, "size": 96})
    export_student(model, tmp_path, data, preparation="exact", resize=True, formats=("float32",), rounds=3)
    pixels = np.zeros((192, 192, 3), np.uint8)
    pixels[:, :128, 0] = 255  # red but for the right third
    Image.fromarray(pixels).save(tmp_path / "red.png")
    Image.fromarray(pixels[:, :96]).save(tmp_path / "narrow.png")
    student = str(tmp_path / "redness-float32.tflite")
    assert main([student, str(tmp_path / "red.png"), str(tmp_path / "narrow.png")]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'red.png'}: SSA") and "96x192" in said.err
    assert "drawn polyps" in said.err  # what it learned, which is no tissue
    drawn = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("utils.plots.ship.explanation", lambda numbers, text: drawn.update(numbers) or plt.figure())
        assert main([student, str(tmp_path / "red.png"), "--explain", str(tmp_path / "why.png"), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert "drawn polyps" in answers["note"] and answers["threshold"] is None
    (row,) = drawn["pictures"]
    assert row["class"] == "SSA" and row["map"].shape == (96, 96) and row["name"] == "red.png"
    # What is red speaks for it; the background is the mean, so that the black third speaks against.
    assert row["map"][:, :60].mean() > 0.005 > -0.005 > row["map"][:, 68:].mean()


def test_images_of_another_shape_are_refused(model):
    with pytest.raises(ValueError, match="28, 28, 1"):
        Student(model).logits(np.zeros((2, 28, 28), np.uint8))
    for images in (np.full((1, 28, 28, 1), 200, np.int64), np.full((1, 28, 28, 1), 200.0)):
        with pytest.raises(ValueError, match="from 200"):
            Student(model).logits(images)


def test_native_messages_are_shown_only_if_the_work_fails(capfd):
    with native_messages_kept_back():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), native_messages_kept_back():
        os.write(2, b"the reason")
        raise RuntimeError
    assert capfd.readouterr().err == "the reason"


def test_an_explanation_is_drawn(model, pictures, tmp_path, capsys):
    drawn = tmp_path / "why.png"
    assert main([str(model), str(pictures / "paper.png"), "--explain", str(drawn)]) == 0
    with Image.open(drawn) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    assert [path.name for path in tmp_path.iterdir()] == ["why.png"]
    one = str(pictures / "mnist.png")
    for bad in ([one, "--explain", str(tmp_path / "gone" / "why.png")], [*[one] * 51, "--explain", str(drawn)]):
        with pytest.raises(SystemExit) as stopped:
            main([str(model), *bad])
        assert stopped.value.code == 2


def test_all_pictures_that_are_answered_are_explained_in_one_drawing(model, pictures, tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr("utils.plots.ship.explanation", lambda numbers, text: drawn.update(numbers) or plt.figure())
    files = [str(pictures / "mnist.png"), str(tmp_path / "gone.png"), str(pictures / "paper.png")]
    assert main([str(model), *files, "--explain", str(tmp_path / "why.png")]) == 1
    said = capsys.readouterr()
    assert [row["name"] for row in drawn["pictures"]] == ["mnist.png", "paper.png"]
    assert said.out.count("%") == 2 and "gone.png: there is no such file" in said.err


def test_an_explanation_that_cannot_be_written_leaves_the_answers(model, pictures, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    files = [str(pictures / name) for name in ("mnist.png", "paper.png")]
    assert main([str(model), *files, "--explain", str(tmp_path / "why.png")]) == 1
    said = capsys.readouterr()
    assert said.out.count("%") == 2 and said.err.count("no space left") == 2 and not list(tmp_path.iterdir())


def test_an_explanation_never_replaces_what_it_explains(model, pictures, capsys):
    picture = pictures / "paper.png"
    before = picture.read_bytes()
    for target in (picture, model, model.with_name("card.json")):
        with pytest.raises(SystemExit):
            main([str(model), str(picture), "--explain", str(target)])
        assert "would be overwritten" in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_an_answer_stands_when_a_later_picture_ends_the_run(model, pictures, monkeypatch, capsys):
    real = Student.classify

    def stopped(self, path):
        if "jpg" in str(path):
            raise KeyboardInterrupt
        return real(self, path)

    monkeypatch.setattr(Student, "classify", stopped)
    with pytest.raises(KeyboardInterrupt):
        main([str(model), str(pictures / "mnist.png"), str(pictures / "paper.jpg")])
    assert "mnist.png: " in capsys.readouterr().out


def test_what_cannot_be_explained_is_answered_all_the_same(model, pictures, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("no segments")

    monkeypatch.setattr("utils.explain.explain_image", fail)
    assert main([str(model), str(pictures / "mnist.png"), "--explain", str(tmp_path / "why.png")]) == 1
    said = capsys.readouterr()
    assert "%" in said.out and "no segments" in said.err and not list(tmp_path.iterdir())


def test_without_an_interpreter_it_says_what_to_install(model, pictures, monkeypatch, capsys):
    for name in ("ai_edge_litert.interpreter", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main([str(model), str(pictures / "paper.png")]) != 0
    assert "pip install ai-edge-litert" in capsys.readouterr().err
