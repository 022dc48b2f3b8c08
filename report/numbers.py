"""Numbers by name: `{{file/key/.../key | format}}` in a text is looked up in the results and written out.

A key is a dictionary's, a position in a list, or the "name", "title" or "label" of one of a list's entries; a slash
between spaces belongs to a key. `{{if name}} ... {{end}}` keeps its text where what it names is true. Formats:

    any of Python's (".2f", ",", "+.2f", ".1%")     of the number found
    mean.2f         "99.24 ± 0.05" of {"mean", "sd"}
    interval.2f     "99.17 to 99.30" of {"low", "high"}
    estimate.3f     "0.893 [0.861, 0.921]" of {"mean", "low", "high"}
    gain.2f         "+0.59 [+0.42, +0.77]" of the same, signed
    verdict         "outside the noise" or "inside the noise": by "corrected", the p-value corrected for the number
                    of comparisons, where there is one; else by whether [low, high] leaves zero out
    p               "< 0.001" or "0.024"
    MB.2f           bytes as megabytes
    median.1f       of a list of numbers
    span.1f         "4.1 to 4.9", least and greatest of a list of numbers
    count           the length of a list
    list            its entries, with commas
"""

import json
import math
import re
import statistics
from pathlib import Path

PLACEHOLDER = re.compile(r"\{\{([^{}:]+?)(?:\|([^{}]+?))?\}\}")
CONDITION = re.compile(r"\{\{if ([^{}]+)\}\}(.*?)\{\{end\}\}", re.DOTALL)
SLASH = re.compile(r"(?<! )/(?! )")
TASKS = ("task1_", "task2_")  # what the notebooks write; their summaries say of which run the others must be
BENCHMARKS = "benchmark_"  # what `make bench` writes, on its own
NAMES = ("name", "title", "label")


class MissingResult(ValueError):
    """A result that is not there, or is of another run than those beside it."""


class Results:
    """The stored results of one profile: each a JSON file with the profile, data source and run it came from."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.read: dict[str, dict] = {}

    def file(self, name: str) -> dict:
        """The content of NAME.json; an error names a file that is missing, or is left over from another run."""
        if name in self.read:
            return self.read[name]
        path = self.folder / f"{name}.json"
        how = "execute the notebook that writes it (`make full KEEP=1`)"
        if name.startswith(BENCHMARKS):
            how = "measure (`make bench`)"
        if not path.is_file():
            raise MissingResult(
                f"The result {name!r} is missing: there is no {path}. To make it, {how}; then build again."
            )
        try:  # not results.read_json: that sets a broken file aside, and to read a report's numbers must move nothing
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}, not an object")
        except ValueError as fault:
            raise MissingResult(
                f"The result {name!r} cannot be read: {path} is no JSON object ({fault}). Restore it, or {how}; then "
                "build again."
            ) from fault
        self.read[name] = content
        if name.startswith(TASKS):
            summary = self.file(f"summary-{name.partition('_')[0]}")
            for part in ("run", "profile"):
                if content.get(part) != summary.get(part):
                    raise MissingResult(
                        f"The result {name!r} is stale: its {part} is {content.get(part)!r}, that of its summary is "
                        f"{summary.get(part)!r}. Execute the notebook again from top to bottom (`make full KEEP=1`)."
                    )
        if name.startswith(BENCHMARKS):
            measured, results = (f.get("versions", {}) for f in (content, self.file("summary-task1")))
            for library in ("tensorflow", "keras"):
                if measured.get(library) != results.get(library):
                    raise MissingResult(
                        f"The result {name!r} is stale: it was measured with {library} {measured.get(library)}, the "
                        f"notebooks were executed with {results.get(library)}. Measure again (`make bench`)."
                    )
        return content

    def find(self, name: str):
        """What stands under "file/key/.../key"; figures keep what they show under "numbers", which is left out here."""
        file, *keys = SLASH.split(name.strip())
        found = self.file(file)
        if keys and keys[0].strip() in found.get("numbers", ()):
            found = found["numbers"]
        for key in keys:
            found = _entry(found, key.strip(), name)
        return found

    def write(self, name: str, form: str | None = None) -> str:
        """What stands under a name, in the format asked for."""
        try:
            return written(self.find(name), (form or "").strip())
        except (TypeError, ValueError, KeyError) as fault:
            if isinstance(fault, MissingResult):
                raise
            raise MissingResult(f"{{{{{name}}}}} cannot be written as {form!r}: {fault}") from fault

    def fill(self, text: str) -> str:
        """The text with every condition decided and every placeholder written out."""
        text = CONDITION.sub(lambda found: found[2] if self.find(found[1]) else "", text)
        return PLACEHOLDER.sub(lambda found: self.write(*found.groups()), text)


def _entry(found, key: str, name: str):
    if isinstance(found, dict) and key in found:
        return found[key]
    if isinstance(found, list):
        if key.lstrip("-").isdigit() and -len(found) <= int(key) < len(found):
            return found[int(key)]
        for entry in found:
            if isinstance(entry, dict) and key in (entry.get(part) for part in NAMES):
                return entry
    known = list(found) if isinstance(found, dict) else f"{len(found)} entries" if isinstance(found, list) else found
    raise MissingResult(f"The result {name!r} is missing: nothing is called {key!r} there; there is {known}.")


def written(value, form: str) -> str:
    """A value in one of the formats that the module's docstring lists, with a minus sign instead of a hyphen."""
    text = _written(value, form)
    return (
        text.replace("-", "−") if isinstance(value, int | float | dict) or form.startswith(("median", "span")) else text
    )


def _written(value, form: str) -> str:
    kind, _, digits = form.partition(".")
    digits = f".{digits}"
    if form == "verdict":
        outside = value["low"] > 0 or value["high"] < 0
        if "corrected" in value:  # as text where it is not defined
            outside = float(value["corrected"]) <= 0.05
        return "outside the noise" if outside else "inside the noise"
    if form == "p" and math.isnan(float(value)):  # as text in JSON: differences without any spread have none
        return "undefined"
    if form == "p":
        return "< 0.001" if value < 0.0005 else f"{value:.3f}"
    if kind == "MB":
        return f"{value / 1e6:{digits}}"
    if kind == "median":
        return f"{statistics.median(value):{digits}}"
    if kind == "span":
        return f"{min(value):{digits}} to {max(value):{digits}}"
    if form == "count":
        return str(len(value))
    if form == "list":
        return ", ".join(str(entry) for entry in value)
    if kind == "mean":
        return f"{value['mean']:{digits}} ± {value['sd']:{digits}}"
    if kind == "interval":
        return f"{value['low']:{digits}} to {value['high']:{digits}}"
    if kind in ("estimate", "gain"):
        sign = "+" if kind == "gain" else ""
        return "{:{f}} [{:{f}}, {:{f}}]".format(*(value[part] for part in ("mean", "low", "high")), f=sign + digits)
    if isinstance(value, dict | list):
        raise ValueError(f"it holds {list(value) if isinstance(value, dict) else len(value)}, not one number")
    return f"{value:{form}}"
