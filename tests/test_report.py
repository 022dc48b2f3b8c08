"""The report and the README say what the stored results say, and nothing is built from results that do not fit."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import typst

from report import build
from report.numbers import MissingResult, Results, written
from report.tables import TABLES
from utils import cost, models
from utils.methods import METHODS

FIGURES = build.ROOT / "figures"
DIFFERENCE = {"mean": 0.592, "sd": 0.1, "low": 0.415, "high": 0.769}


@pytest.fixture
def stored(tmp_path):
    """A copy of the stored results that may be changed."""
    folder = tmp_path / "figures"
    folder.mkdir()
    for path in FIGURES.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    for path in FIGURES.glob("*.png"):
        (folder / path.name).symlink_to(path)
    return folder


def change(folder, name, alter):
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    alter(content)
    path.write_text(json.dumps(content))


def report_text(folder):
    return build.numbered(build.filled((build.HERE / "report.md").read_text(), Results(folder)))


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (1238730, ",", "1,238,730"),
        (-0.5, "+.2f", "−0.50"),
        ({"mean": 99.236, "sd": 0.05}, "mean.2f", "99.24 ± 0.05"),
        (DIFFERENCE, "interval.2f", "0.41 to 0.77"),
        (DIFFERENCE, "gain.2f", "+0.59 [+0.41, +0.77]"),
        ({"mean": 0.8, "low": 0.75, "high": 0.9}, "estimate.3f", "0.800 [0.750, 0.900]"),
        (DIFFERENCE, "verdict", "outside the noise"),
        (DIFFERENCE | {"low": -0.1}, "verdict", "inside the noise"),
        (DIFFERENCE | {"corrected": 0.06}, "verdict", "inside the noise"),
        (DIFFERENCE | {"corrected": "nan"}, "verdict", "inside the noise"),
        (DIFFERENCE | {"low": -0.1, "corrected": 0.04}, "verdict", "outside the noise"),
        ({"mean": -1, "low": -2, "high": -0.5}, "verdict", "outside the noise"),
        (0.0004, "p", "< 0.001"),
        (0.0242, "p", "0.024"),
        ("nan", "p", "undefined"),  # as JSON holds it
        ([-1.5, -2], "median.1f", "−1.8"),
        (1284648, "MB.2f", "1.28"),
        ([3, 1, 2.5], "median.1f", "2.5"),
        ([3, -1, 2.5], "span.1f", "−1.0 to 3.0"),
        ([3, 1, 2], "count", "3"),
        (["crd", "takd"], "list", "crd, takd"),
    ],
)
def test_a_value_is_written_as_asked(value, form, expected):
    assert written(value, form) == expected


def test_a_name_leads_through_keys_positions_and_names(tmp_path):
    numbers = {"rows": [{"name": "kd", "p": 0.5}, {"name": "cid", "p": 0.1}], "a / b": [1, 2]}
    (tmp_path / "x.json").write_text(json.dumps({"figure": "x", "seeds": [0], "numbers": numbers}))
    stored = Results(tmp_path)
    assert stored.fill("{{x/rows/cid/p|.1f}} {{x/rows/0/p|.1f}} {{x/a / b/-1|d}} {{x/seeds|count}}") == "0.1 0.5 2 1"
    assert stored.fill("a{{if x/rows}}b{{end}}c{{if x/rows/0/p}}{{x/figure}}{{end}}") == "abcx"
    with pytest.raises(MissingResult, match=r"x/rows/dkd.*'dkd'"):
        stored.fill("{{x/rows/dkd/p}}")
    with pytest.raises(MissingResult, match=r"x/rows"):
        stored.fill("{{x/rows|.2f}}")


def test_a_changed_number_changes_the_report_and_fails_the_readme(stored):
    before = report_text(stored)
    change(
        stored,
        "task1_with_without",
        lambda content: content["numbers"]["panels"][0]["difference"].update(mean=0.123),
    )
    after = report_text(stored)
    gone, new = (first.count(text) - second.count(text) for first, second, text in (
        (before, after, "+0.59 ["), (after, before, "+0.12 [")
    ))  # fmt: skip
    assert gone == new > 2
    assert build.readme(stored) != (build.ROOT / "README.md").read_text()


def test_the_readme_is_what_the_results_say():
    assert build.readme(FIGURES) == (build.ROOT / "README.md").read_text(), "run `make report` and commit README.md"


def test_the_pictures_and_links_of_the_readme_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", (build.ROOT / "README.md").read_text()):
        assert (build.ROOT / target).is_file(), target


@pytest.mark.parametrize("name", ["task1_lime.json", "task1_curves.json", "task1_curves.png"])
def test_a_missing_result_stops_the_build_with_its_name(name, stored, tmp_path, capsys):
    (stored / name).unlink()
    assert build.main(["--figures", str(stored), "--output", str(tmp_path / "out")]) == 1
    assert name.partition(".")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_results_of_another_output_folder_are_reported_and_leave_the_readme_alone(stored, tmp_path, monkeypatch):
    output = tmp_path / "mine"
    shutil.copytree(stored, output / "figures")
    monkeypatch.setenv("KD_OUTPUT", str(output))
    asked = {}
    monkeypatch.setattr(build, "readme", lambda figures: "a page")
    monkeypatch.setattr(
        build, "build_report", lambda figures, folder: asked.update(f=figures, o=folder) or folder / "x"
    )
    before = (build.ROOT / "README.md").read_bytes()
    (output / "build").mkdir()
    assert build.main(["--readme"]) == 0
    assert asked == {"f": output / "figures", "o": output / "build"}
    assert (output / "build/README.md").read_text() == "a page" and (build.ROOT / "README.md").read_bytes() == before


def test_a_broken_result_stops_the_build_and_stays_where_it_is(stored, tmp_path, capsys):
    broken = stored / "task1_lime.json"
    broken.write_text(broken.read_text()[:200])
    before = sorted(path.name for path in stored.iterdir())
    assert build.main(["--figures", str(stored), "--output", str(tmp_path / "out")]) == 1
    assert "'task1_lime' cannot be read" in capsys.readouterr().err
    assert sorted(path.name for path in stored.iterdir()) == before and len(broken.read_text()) == 200
    assert not (tmp_path / "out").exists()


def test_a_result_that_lacks_a_part_stops_the_build_with_the_table_s_name(stored):
    change(stored, "task1_reliability", lambda content: content["numbers"]["models"][0].pop("mended"))
    with pytest.raises(MissingResult, match=r"'task1_calibration'.*'mended'"):
        report_text(stored)


def test_a_benchmark_of_another_library_stops_the_build_with_its_name(stored):
    change(stored, "benchmark_speed", lambda content: content["versions"].update(keras="3.0.0"))
    with pytest.raises(MissingResult, match=r"'benchmark_speed' is stale.*keras 3\.0\.0"):
        report_text(stored)


def test_versions_that_differ_between_the_tasks_are_both_told(stored):
    change(stored, "summary-task2", lambda content: content["versions"].update(numpy="1.0", lime="0.1"))
    change(stored, "summary-task1", lambda content: content["versions"].update(numpy="2.0"))
    told = TABLES["versions"](Results(stored))
    assert "numpy 2.0 (Task 1), 1.0 (Task 2)" in told and "lime 0.1" in told and "keras 3" in told


def test_the_report_is_built_without_loading_tensorflow():
    code = "import sys, report.build; print({'tensorflow', 'keras', 'torch'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=build.ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"KD_PROFILE": "full"},
    )  # fmt: skip
    assert run.stdout.strip() == "set()"


def test_code_is_taken_from_the_files():
    block = build.code("utils/losses.py", "distillation_loss")
    assert block.startswith("```python\ndef distillation_loss(") and block.endswith("```")
    assert build.code("utils/distiller.py", "train_step").splitlines()[1].startswith("def train_step(self")
    with pytest.raises(MissingResult, match="no_such_thing"):
        build.code("utils/losses.py", "no_such_thing")


@pytest.mark.parametrize(("part", "other"), [("run", "2001-01-01T00:00:00+00:00"), ("profile", "quick")])
def test_a_stale_result_stops_the_build_with_its_name(stored, part, other):
    change(stored, "task1_search", lambda content: content.update({part: other}))
    with pytest.raises(MissingResult, match=r"'task1_search' is stale.*" + other[:5]):
        report_text(stored)


def test_the_report_is_typeset(stored, tmp_path):
    pdf = build.build_report(stored, tmp_path / "out")
    assert pdf.read_bytes().startswith(b"%PDF")
    page = tmp_path / "out/report/report.typ"
    pages = json.loads(typst.query(str(page), "<pages>", root=str(page.parent)))[0]["value"]
    assert 15 <= pages <= 25, "about 20 pages are asked for"
    for name in ("report.md", "report.tex", "report.typ"):
        text = (page.parent / name).read_text()
        assert not re.search(r"\{\{(if |\w+: |[\w-]+/)|\[@", text), name
    text = (page.parent / "report.tex").read_text()
    assert text.count(r"{\uncounted\def\LTcaptype") == text.count(r"\def\LTcaptype") > 0  # or Table I would be II
    assert r"small \emph{student}" in text.replace("\n", " ") and "*student*" not in text  # the abstract is typeset too
    pictures = re.findall(r"\{(figures/\w+\.png)\}", text)
    assert len(pictures) > 20 and all((page.parent / picture).is_file() for picture in pictures)
    drawn = re.findall(r'image\("(figures/[^"]+)"', page.read_text())
    assert len(drawn) > 20 and sum(name.endswith(".svg") for name in drawn) >= len(drawn) - 2


def test_a_standin_is_named_wherever_its_numbers_stand():
    summary = Results(FIGURES).file("summary-task2")
    if not summary["standin"]:
        pytest.skip("Task 2's results are MHIST's")
    text = report_text(FIGURES)
    tables = [line for line in text.splitlines() if line.startswith(": ") and "{#tbl:" in line]
    of_task2 = [
        line for line in tables if re.search(r"#tbl:(metrics|temperature2|methods2|questions|frozen|ship\w+2)", line)
    ]
    assert len(of_task2) == 6 and all(summary["source"] in line for line in of_task2)
    assert "no result of this task is a result on MHIST" in text


def test_with_mhist_the_report_does_without_its_pictures(stored):
    change(stored, "summary-task2", lambda content: content.update(standin=False, source="MHIST, made up here"))
    for name in ("task2_images", "task2_explanations"):  # the notebook keeps these out of the folder that is published
        (stored / f"{name}.json").unlink()
        (stored / f"{name}.png").unlink()
    text = report_text(stored)
    assert build.FIGURE.findall(build.typst_body(text)) and "MHIST, made up here" in text
    assert all(stored.joinpath(f"{name}.png").is_file() for name in build.FIGURE.findall(build.typst_body(text)))
    assert "On the drawings" not in text and "fig:images" not in text and "fig:explanations2" not in text


def test_the_text_has_no_number_of_its_own():
    for name in ("report.md", "readme.md"):
        text = (build.HERE / name).read_text()
        text = re.sub(r"\{\{.*?\}\}|\$.*?\$|```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        text = re.sub(r"3\.1[1-3]|95%|\bwidth=\d+%", "", text)  # Python's versions, an interval's level, a width
        assert not re.findall(r"\d\.\d|\d%", text), name


@pytest.mark.parametrize("notebook", ["Task1", "Task2"])
def test_every_marked_passage_is_in_the_report(notebook):
    marked = re.findall(r"<!-- report: ([\w-]+) -->", build.notebook_text(notebook))
    used = [name for of, name in build.ANSWER.findall((build.HERE / "report.md").read_text()) if of == notebook]
    assert sorted(marked) == sorted(used)
    assert all(len(build.answer(notebook, name)) > 80 for name in used)


def typed_counts() -> dict[str, list[str]]:
    """{notebook/passage: words in it that hold a count}, the counts taken from the networks themselves."""
    networks = models.mnist_teacher(), models.mnist_student(), models.mnist_assistant()
    layers = [{row["layer"]: row for row in cost.cost_by_layer(network)} for network in networks]
    flops, parameters, multiply_adds = (
        [sum(row[part] for row in rows.values()) for rows in layers]
        for part in ("flops", "parameters", "multiply_adds")
    )
    teacher, student, assistant = (f"{count / 1e6:.1f}" for count in flops)
    kernel = math.prod(networks[0].get_layer("conv2").kernel.shape)
    share = layers[0]["conv2"]["multiply_adds"] / multiply_adds[0]
    hint, guided = networks[0].get_layer("fc").units, networks[1].get_layer("fc2").units
    head = METHODS["cid"]().make_student(models.mnist_student, 10).get_layer("intervention")
    deployed = f"{sum(weight.shape.num_elements() for weight in head.trainable_weights):,} parameters"
    remembered = head.context.shape.num_elements()
    resnet, mobilenet = (
        f"{model(size=32).layers[-1].kernel.shape[0]:,}" for model in (models.mhist_teacher, models.mhist_student)
    )
    return {
        "Task1/models": [f"of {guided} units"],
        "Task1/compression": [
            f"**{flops[0] / flops[1]:.1f} times fewer** operations",
            f"**{parameters[1] / parameters[0] - 1:.0%} more** parameters",
            f"the {kernel:,} weights of `conv2` make {share:.0%} of the teacher's multiply-adds",
        ],
        "Task1/question-10": [
            f"hint `fc` ({hint}), guided `fc1` ({guided})",
            f"so {hint} and {guided} features",
            f"({assistant} million FLOPs, between {teacher} and {student})",
        ],
        "Task1/cid": [
            f"[B, {guided}] and [B, {hint}]",
            f"{guided * hint + hint:,} parameters, in training only",
            f"{deployed} that **are deployed**",
        ],
        "Task1/question-11": [f"{hint} numbers say"],
        "Task1/question-12": [f"{deployed}, {remembered:,} remembered numbers and a flag"],
        "Task2/question-1a": [f"({resnet} numbers for ResNet50V2, {mobilenet} for MobileNetV2)"],
        "Task2/methods": [f"of {resnet} and {mobilenet} numbers"],
    }


def test_counts_typed_in_the_answers_are_those_of_the_networks():
    typed = typed_counts().items()
    wrong = [(place, words) for place, all_words in typed for words in all_words
             if words not in build.answer(*place.split("/"))]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("notebook", ["Task1", "Task2"])
def test_every_reference_of_a_notebook_is_cited_in_it(notebook):
    text = build.notebook_text(notebook)
    cited = set()
    for first, last in build.CITED_BY_NUMBER.findall(text.partition("## References\n")[0]):
        cited |= set(range(int(first), int(last or first) + 1))
    assert cited == set(build.reference_list(text))


def test_every_reference_is_cited_in_the_report():
    assert set(re.findall(r"#ref-([\w-]+)\}", report_text(FIGURES))) == set(build.references())


def test_a_citation_or_a_figure_that_is_unknown_is_an_error():
    with pytest.raises(MissingResult, match="'nobody'"):
        build.numbered("[@nobody]")
    with pytest.raises(MissingResult, match="'fig:none'"):
        build.numbered("{fig:none}")


def test_figures_are_numbered_as_they_come():
    text = build.numbered("{fig:b} {tbl:t}\n\n![x](a.png){#fig:a}\n\n![y](b.png){#fig:b .wide}\n\n: z {#tbl:t}")
    assert text.startswith("[Fig.\N{NO-BREAK SPACE}2](#fig:b) [Table\N{NO-BREAK SPACE}I](#tbl:t)")


def test_a_table_without_a_caption_stays_where_it_stands():
    plain, titled = "| a |\n|---|\n| b |\n", "| c |\n|---|\n| d |\n\n: Title {#tbl:t .wide}\n"
    body = build.typst_body(f"{plain}\ntext\n\n{titled}\nmore\n\n{plain}")
    assert body.count("#figure(") == 1 and body.count("#table(") == 3
    assert '#figure(placement: auto, scope: "parent", ' in body and "Title" in body


def test_every_table_is_used():
    text = (build.HERE / "report.md").read_text() + (build.HERE / "readme.md").read_text()
    assert set(build.TABLE.findall(text)) == set(TABLES)


def test_verdicts_name_the_side_of_kd_that_the_numbers_are_on(tmp_path):
    def store(name, numbers):
        content = {"run": "r", "profile": "full", "numbers": numbers}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    for task in ("task1", "task2"):
        store(f"summary-{task}", {})
    rows = [("kd", False, 0.0), ("dkd", False, 0.2), ("rkd", False, -0.3), ("crd", True, 0.4)]
    for name, some in (("task1_comparison", rows), ("benchmark_shifted_methods", rows[:2])):
        store(name, {"rows": [{"name": n, "tie": tie, "difference": d} for n, tie, d in some]})
    rows = [("DKD", 0.02, 0.01), ("RKD", -0.02, 0.04), ("CRD", 0.05, "nan")]
    against = [{"name": n, "against KD": {"mean": mean, "corrected": p}} for n, mean, p in rows]
    store("task2_methods", {"rows": [{"name": "KD"}, *against]})
    against = [{"T": t, "against 4": {"corrected": p}} for t, p in ((1, 0.03), (16, 0.3))]
    store("task2_temperatures", {"rows": [{"T": 4}, *against]})
    told = {name: TABLES[name](Results(tmp_path)) for name in TABLES if "verdict" in name}
    assert told == {
        "task1_verdicts": "Better, with p-values corrected over the methods: `dkd`; worse: `rkd`; "
        "not to be told from it: `crd`.",
        "shifted_verdicts": "Better, with p-values corrected over the methods: `dkd`; worse: none; "
        "not to be told from it: none.",
        "task2_verdicts": "Better than KD in AUC: DKD; worse: RKD; not to be told from it: CRD.",
        "task2_temperature_verdict": "By AUC $T=1$ can be told from $T=4$ (smallest p, corrected: 0.03).",
    }
