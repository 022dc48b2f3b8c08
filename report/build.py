"""Build the report from the results: `python -m report.build` writes build/report.pdf, its sources to build/report/.

The road of the text: report.md, into which go the answers that stand in the notebooks, tables, numbers by name,
references and the numbers of figures. Then pandoc makes Typst of it, and Typst the PDF. `--readme` writes README.md, in
the same way, from readme.md.
"""

import argparse
import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path

import matplotlib
import pypandoc
import typst

from report.numbers import MissingResult, Results
from report.tables import TABLES
from utils import plots, results, settings

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
ANSWER = re.compile(r"\{\{answer: (Task[12])/([\w-]+)\}\}")
CODE = re.compile(r"\{\{code: ([\w/.]+) (\w+)\}\}")
TABLE = re.compile(r"\{\{table: (\w+)\}\}")
FIGURE = re.compile(r'image\("figures/(\w+)\.png"')
LABELLED = re.compile(r"\{#((?:fig|tbl):[\w-]+)")
SPACE = "\N{NO-BREAK SPACE}"
CITED = re.compile(r"\[@([\w-]+)\]")
CITED_BY_NUMBER = re.compile(r"\[(\d+)(?:–(\d+))?\]")
UNTITLED = re.compile(
    r"#figure\(\n  align\(center\)(\[#table\((?:(?!, caption:).)*?\)\])\n  , kind: table\n  \)", re.DOTALL
)
MARKED = r"<!-- report: {name} -->\n(.*?)<!-- end -->"


def references() -> dict[str, str]:
    """{key: reference in IEEE form}, from references.md, in its order."""
    lines = (HERE / "references.md").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if re.match(r"[\w-]+: ", line))


def notebook_text(name: str) -> str:
    """All text cells of a notebook of this project, one after the other."""
    cells = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def reference_list(text: str) -> dict[int, str]:
    """{number: key} of the references at the end of a notebook's text; one that references.md lacks is an error."""
    keys = {reference: key for key, reference in references().items()}
    listed = re.findall(r"^(\d+)\. (.*)$", text.partition("## References\n")[2], re.MULTILINE)
    if unknown := [reference for _, reference in listed if reference not in keys]:
        raise MissingResult(f"The notebook lists {unknown[0]!r}, which report/references.md does not have.")
    return {int(number): keys[reference] for number, reference in listed}


def answer(notebook: str, name: str) -> str:
    """A marked passage of a notebook, its citations by key and its headings below the report's own."""
    text = notebook_text(notebook)
    found = re.findall(MARKED.format(name=re.escape(name)), text, re.DOTALL)
    if len(found) != 1:
        raise MissingResult(
            f"{notebook}.ipynb has {len(found)} passages marked <!-- report: {name} --> ... <!-- end -->; not one."
        )
    listed = reference_list(text)

    def by_key(match):
        first, last = int(match[1]), int(match[2] or match[1])
        if not listed.keys() >= set(range(first, last + 1)):
            raise MissingResult(
                f"{notebook}.ipynb cites {match[0]} in {name!r}; its list has {len(listed)} references."
            )
        return "".join(f"[@{listed[number]}]" for number in range(first, last + 1))

    passage = re.sub(r"^#+ ", "### ", found[0].strip(), flags=re.MULTILINE)
    return CITED_BY_NUMBER.sub(by_key, passage)


def code(path: str, name: str) -> str:
    """A function or class of this project, or a method of one, as a block of code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = text.splitlines()[first - 1 : node.end_lineno]
            return "\n".join(["```python", *(line[node.col_offset :] for line in lines), "```"])
    raise MissingResult(f"{path} has no function or class named {name!r}.")


def table(name: str, stored: Results) -> str:
    """A table of report/tables.py; an error names the table and what the results lack for it."""
    try:
        return TABLES[name](stored)
    except (KeyError, TypeError) as fault:
        raise MissingResult(f"The table {name!r} cannot be made: the stored results lack {fault}.") from fault


def filled(text: str, stored: Results) -> str:
    """The text with its answers, tables, numbers and code."""
    text = ANSWER.sub(lambda found: answer(*found.groups()), text)
    text = TABLE.sub(lambda found: table(found[1], stored), text)
    text = stored.fill(text)
    return CODE.sub(lambda found: code(*found.groups()), text)  # last: code has braces of its own


def numbered(text: str) -> str:
    """{fig:x} and {tbl:x} become links with the number of what they name, [@key] that of its reference."""
    numbers = {"fig": 0, "tbl": 0}
    names = {}
    for label in LABELLED.findall(text):
        kind = label.partition(":")[0]
        numbers[kind] += 1
        names[label] = f"Fig.{SPACE}{numbers[kind]}" if kind == "fig" else f"Table{SPACE}{roman(numbers[kind])}"

    def link(match):
        if match[1] not in names:
            raise MissingResult(f"The text speaks of {match[1]!r}, which it does not show; it has {sorted(names)}.")
        return f"[{names[match[1]]}](#{match[1]})"

    text = re.sub(r"\{((?:fig|tbl):[\w-]+)\}", link, text)
    known, order = references(), []
    for key in CITED.findall(text):
        if key not in known:
            raise MissingResult(f"The text cites {key!r}, which report/references.md does not have.")
        if key not in order:
            order.append(key)
    text = CITED.sub(lambda found: f"[[{order.index(found[1]) + 1}]](#ref-{found[1]})", text)
    listed = "\n\n".join(f"[\\[{n}\\]]{{#ref-{key}}} {known[key]}" for n, key in enumerate(order, 1))
    return text.replace("<!-- references -->", listed)


def roman(number: int) -> str:
    """1 to 39 as IEEE numbers its tables."""
    return "X" * (number // 10) + ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")[number % 10]


def typst_body(text: str) -> str:
    """Pandoc's Typst; what is labelled .wide spans both columns, and floats."""
    wide = re.findall(r"\{#((?:fig|tbl):[\w-]+)[^}]*\.wide", text)
    body = pypandoc.convert_text(text, "typst", format="markdown", extra_args=["--columns=10000"])
    for label in wide:
        end = body.index(f")\n<{label}>")
        start = body.rindex("#figure(", 0, end) + len("#figure(")
        body = body[:start] + 'placement: auto, scope: "parent", ' + body[start:]
    # A table without a caption belongs where it stands, and is not counted.
    body = UNTITLED.sub(r"#align(center)\1", body)
    # A word set in math should not fall apart into letters.
    return re.sub(r"upright\(((?:[A-Z] ?){2,})\)", lambda found: f'upright("{found[1].replace(" ", "")}")', body)


def draw_figures(body: str, stored: Results, folder: Path) -> str:
    """Copies each figure of the text to `folder`: the picture as it is, for LaTeX and Markdown, and for Typst as SVG
    drawn from its stored numbers, once, until they change; the text with the names of the SVGs.

    One that utils.plots cannot draw again stays the picture it is.
    """
    for name in FIGURE.findall(body):
        content = stored.file(name)
        picture = f"{name}.png"
        shutil.copyfile(stored.folder / picture, folder / picture)
        if content.get("drawn_by") in plots.__all__:
            picture = f"{name}-{results.key_of(content)}.svg"
            if not (folder / picture).is_file():
                with results.whole_file(folder / picture, ".svg") as temporary:
                    plots.redraw(content, temporary)
            body = body.replace(f'"figures/{name}.png"', f'"figures/{picture}"')
    return body


# Signs of the text that pdfLaTeX does not know (XeLaTeX and LuaLaTeX do).
SIGNS = {"−": "-", "Σ": r"\Sigma", "∞": r"\infty", "≥": r"\ge"}
DECLARED = "".join(
    rf"\DeclareUnicodeCharacter{{{ord(sign):04X}}}{{\ensuremath{{{tex}}}}}" for sign, tex in SIGNS.items()
)
# Long lines of code are broken; and tables without a caption leave the counter as it was, which some versions of
# longtable do not.
LATEX_HEADER = (
    rf"\ifPDFTeX{DECLARED}\fi"
    + r"""
\IfFileExists{fvextra.sty}{\usepackage{fvextra}\fvset{breaklines}}{}
\newcommand{\restoretables}{\setcounter{table}{\tablesbefore}}
\newcommand{\uncounted}{\xdef\tablesbefore{\arabic{table}}\aftergroup\restoretables}
"""
)


def latex(title: str, authors: str, abstract: str, terms: str, main: str) -> str:
    """The report's text as a LaTeX document."""
    front = "".join(f"{name}: |\n  {text}\n" for name, text in
                    (("title", title), ("author", authors), ("abstract", abstract)))  # fmt: skip
    options = ("documentclass=IEEEtran", "classoption=onecolumn", f"header-includes={LATEX_HEADER}")
    text = pypandoc.convert_text(
        f"---\n{front}---\n\n**Index terms:** {terms}\n\n{main}", "latex", format="markdown",
        extra_args=["--standalone", *(f"--variable={option}" for option in options)],
    )  # fmt: skip
    return text.replace("{\\def\\LTcaptype{none}", "{\\uncounted\\def\\LTcaptype{none}")


def build_report(figures: Path, folder: Path) -> Path:
    """Writes report.md, .typ, .tex and .pdf to `folder`; the PDF's path. Nothing is written if a result is missing."""
    stored = Results(figures)
    text = numbered(filled((HERE / "report.md").read_text(encoding="utf-8"), stored))
    front, _, main = text.partition("\n---\n")
    body = typst_body(main)
    for name in FIGURE.findall(body):
        stored.file(name)  # missing or stale: it says so
        if not (figures / f"{name}.png").is_file():
            raise MissingResult(
                f"{figures / name}.png is missing: its numbers are there. Run the notebook that draws it."
            )
    title, authors, abstract, terms = (part.strip() for part in front.split("\n\n", 3))
    work = folder / "report"
    (work / "figures").mkdir(parents=True, exist_ok=True)
    fields = [
        f"{name}: [{pypandoc.convert_text(part, 'typst', format='markdown').strip()}]"
        for name, part in (("abstract", abstract), ("index-terms", terms))
    ]
    page = (
        f'#import "ieee.typ": paper\n#show: paper.with(title: "{title}", authors: "{authors}", {", ".join(fields)})\n\n'
        + draw_figures(body, stored, work / "figures")
    )
    shutil.copyfile(HERE / "ieee.typ", work / "ieee.typ")
    for name, content in {
        "report.typ": page,
        "report.md": f"# {title}\n\n{authors}\n\n**Abstract.** {abstract}\n\n**Index terms:** {terms}\n\n{main}",
        "report.tex": latex(title, authors, abstract, terms, main),
    }.items():  # fmt: skip
        with results.whole_file(work / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    pdf = folder / "report.pdf"
    with results.whole_file(pdf, ".pdf") as temporary:
        typst.compile(str(work / "report.typ"), output=str(temporary), root=str(work))
    return pdf


def readme(figures: Path) -> str:
    """The README: report/readme.md with its tables and numbers."""
    return filled((HERE / "readme.md").read_text(encoding="utf-8"), Results(figures))


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m report.build", description=__doc__.splitlines()[0])
    full = settings.read({**os.environ, "KD_PROFILE": "full"})  # the report is of the full profile, wherever it was run
    parser.add_argument("--figures", type=Path, default=full.figures, help="folder of the stored results")
    parser.add_argument("--output", type=Path, default=full.cache.parent.parent, help="folder for the report")
    parser.add_argument(
        "--readme", action="store_true", help="also write README.md: the project's, or of other results one in --output"
    )
    chosen = parser.parse_args(arguments)
    matplotlib.use("agg")
    try:
        page = readme(chosen.figures) if chosen.readme else None
        pdf = build_report(chosen.figures, chosen.output)
    except MissingResult as fault:
        print(f"The report is not built. {fault}", file=sys.stderr)
        return 1
    if page:
        ours = chosen.figures.resolve() == (ROOT / "figures").resolve()
        target = (ROOT if ours else chosen.output) / "README.md"
        with results.whole_file(target, ".md") as temporary:
            temporary.write_text(page, encoding="utf-8")
        print(f"{target} is written.")
    print(f"{pdf} is written; its sources as Typst, LaTeX and Markdown are in {pdf.with_suffix('')}/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
