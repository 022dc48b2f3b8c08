"""The tables of the report and the README: each a function from the stored results to a Markdown table."""

from report.numbers import Results, written
from utils.latency import in_words


def markdown(columns: list[str], rows: list[list[str]], align: str | None = None) -> str:
    """A pipe table; align has one of l, r, c for each column: the first to the left, the others centred by default."""
    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    align = align or "l" + "c" * (len(columns) - 1)
    lines = [columns, [marks[a] for a in align], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _compared(difference: dict | None, form: str) -> list[str]:
    """Two cells: a difference with its interval, and on which side of the noise it lies; empty for the reference."""
    return [written(difference, form), written(difference, "verdict").split()[0]] if difference else ["", ""]


def _corrected(difference: dict | None, form: str) -> list[str]:
    """Two cells: a difference with its interval, and its p-value, corrected; empty for the reference."""
    return [written(difference, form), written(float(difference["corrected"]), "p")] if difference else ["", ""]


def _star(difference: dict) -> str:
    return " \\*" if written(difference, "verdict").startswith("outside") else ""


def task1_main(stored: Results) -> str:
    """Teacher and students, without and with views."""
    intervals = stored.find("summary-task1/intervals")
    return markdown(
        ["", "test accuracy, %", "95% interval of the mean"],
        [[name, written(i, "mean.2f"), written(i, "interval.2f")] for name, i in intervals.items()],
    )


def task1_temperature(stored: Results) -> str:
    """The sweep of temperatures, and each against T = 4."""
    temperatures = stored.find("task1_temperature/temperatures")
    rows = []
    for t in temperatures:
        found = stored.find(f"task1_temperatures/{t}")
        # T = 4 itself has no "against 4".
        rows.append([str(t), written(found, "mean.2f"), *_corrected(found.get("against 4"), "gain.2f")])
    return markdown(["$T$", "test accuracy, %", "minus $T=4$, points [95%]", "p"], rows)


def task1_changes(stored: Results) -> str:
    """What distillation changes, with the images as they are and with shifted views."""
    changes = stored.find("task1_changes")["numbers"]
    measures = list(next(iter(changes.values())))
    rows = [
        [measure, *(f"{written(of[measure], 'gain.2f')}{_star(of[measure])}" for of in changes.values())]
        for measure in measures
    ]
    return markdown(["points [95%]", *changes], rows)


def _side(tie: bool, difference: float) -> str:
    return "tie" if tie else "better" if difference > 0 else "worse"


def _sides_in_words(title: str, sides: dict[str, str]) -> str:
    """A sentence that sorts methods by which side of KD they are on: {method: "better", "worse" or "tie"}."""
    groups = {
        titled: [name for name, found in sides.items() if found == side]
        for titled, side in ((title, "better"), ("worse:", "worse"), ("not to be told from it:", "tie"))
    }
    return "; ".join(f"{titled} {', '.join(names) or 'none'}" for titled, names in groups.items()) + "."


def _verdicts(rows: list[dict]) -> str:
    """Which rows of a table of `comparison.compare` differ from KD, as a sentence."""
    sides = {f"`{row['name']}`": _side(row["tie"], row["difference"]) for row in rows if row["name"] != "kd"}
    return _sides_in_words("Better, with p-values corrected over the methods:", sides)


AGAINST_KD = ["method", "test accuracy, %", "errors of 10,000", "against kd, points [95%]", "p", ""]


def _against_kd(row: dict) -> list[str]:
    """What the columns AGAINST_KD say of one method."""
    gain = {"mean": row["difference"], "low": row["difference low"], "high": row["difference high"]}
    against = ["", "", ""]
    if row["name"] != "kd":
        against = [written(gain, "gain.2f"), written(row["p"], "p"), _side(row["tie"], row["difference"])]
    name = f"**{row['name']}**" if row["name"] == "kd" else row["name"]
    return [name, f"{row['accuracy']:.2f} ± {row['sd']:.2f}", f"{row['errors']:.1f}", *against]


def task1_methods(stored: Results) -> str:
    """Every method against KD; its training time as measured apart, since the runs' own had other work beside them."""
    apart = {row["name"]: row["in all, median"] for row in stored.find("benchmark_methods/rows")}
    rows = [
        [*_against_kd(row), f"{row['agreement']:.2f}", f"{row['KL to teacher']:.3f}", f"{row['calibration error']:.2f}",
         f"{apart[row['name']]:.2f}", f"{row['parameters']:,.0f}"]
        for row in stored.find("task1_comparison/rows")
    ]  # fmt: skip
    further = ["agreement, %", "KL, nats", "calibration error, %", "training time", "parameters"]
    return markdown([*AGAINST_KD, *further], rows)


def task1_methods_short(stored: Results) -> str:
    """The same with the columns that fit a page in a browser."""
    return markdown(AGAINST_KD, [_against_kd(row) for row in stored.find("task1_comparison/rows")])


def task1_shifted(stored: Results) -> str:
    """The methods that were run on shifted views too."""
    return markdown(AGAINST_KD, [_against_kd(row) for row in stored.find("task1_shifted/rows")])


def shifted_methods(stored: Results) -> str:
    """All methods on shifted views under one teacher."""
    return markdown(AGAINST_KD, [_against_kd(row) for row in stored.find("benchmark_shifted_methods/rows")])


def shifted_verdicts(stored: Results) -> str:
    """Which of them differ from KD, as a sentence."""
    return _verdicts(stored.find("benchmark_shifted_methods/rows"))


def task1_controls(stored: Results) -> str:
    """Methods that spend more epochs than KD, and the halves of early stopping, each beside its control."""
    return markdown(AGAINST_KD, [_against_kd(row) for row in stored.find("task1_controls/rows")])


def task1_two_classes(stored: Results) -> str:
    """Students of two classes of five digits each."""
    return markdown(AGAINST_KD, [_against_kd(row) for row in stored.find("task1_two_classes/rows")])


def task1_best_student(stored: Results) -> str:
    """The steps to the best student, each against the one before."""
    gained = stored.find("task1_best_student/gained")
    rows = [
        [*_against_kd(row)[:3], *_compared(gained.get(row["name"]), "gain.2f")]
        for row in stored.find("task1_best_student/rows")
    ]
    return markdown([*AGAINST_KD[:3], "against the step before", "the noise"], rows)


def task1_verdicts(stored: Results) -> str:
    """Which methods differ from KD, as a sentence."""
    return _verdicts(stored.find("task1_comparison/rows"))


def task1_settings(stored: Results) -> str:
    """What each method's search chose."""
    settings = stored.find("task1_comparison/settings")
    return markdown(["method", "setting"], [[name, f"`{chosen}`"] for name, chosen in settings.items()], "ll")


def task1_cost(stored: Results) -> str:
    """Parameters, multiply-adds and FLOPs by layer, and in total."""
    rows = []
    for network in stored.find("task1_cost/networks"):
        parts = ("parameters", "multiply_adds", "flops")
        counted = [row for row in network["rows"] if row["flops"] or row["parameters"]]
        rows += [[f"{network['name']}: {row['layer']}", *(f"{row[p]:,}" for p in parts)] for row in counted]
        total = [f"**{sum(row[p] for row in network['rows']):,}**" for p in parts]
        rows.append([f"**{network['name']}, total**", *total])
    return markdown(["layer", "parameters", "multiply-adds", "FLOPs"], rows, "lrrr")


def task1_calibration(stored: Results) -> str:
    """Calibration error as trained, and with the temperature fitted on validation."""
    rows = [
        [m["name"], f"{100 * m['calibration_error']:.2f}", f"{m['temperature']:.2f}", f"{100 * m['mended']:.2f}"]
        for m in stored.find("task1_reliability/models")
    ]
    return markdown(["network", "error, %", "fitted temperature", "error with it, %"], rows)


def task1_robustness(stored: Results) -> str:
    """Accuracy under corruption."""
    accuracy, difference = (stored.find(f"task1_robustness/{part}") for part in ("accuracy", "difference"))
    rows = [
        [kind, *(f"{of[kind]:.2f}" for of in accuracy.values()), f"{written(d, 'gain.2f')}{_star(d)}"]
        for kind, d in difference.items()
    ]
    short = {"student from scratch": "scratch", "student with KD": "KD"}  # or the columns of differences would wrap
    return markdown(["corruption", *(short.get(name, name) for name in accuracy), "KD minus scratch [95%]"], rows)


def task1_shipped(stored: Results) -> str:
    """What each exported file is worth."""
    rows = []
    for name, entry in stored.find("task1_shipped/files").items():
        latency = entry["latency_ms"]
        rows.append([
            name, f"{100 * entry['metrics']['accuracy']:.2f}", f"{entry['bytes'] / 1e6:.2f}",
            in_words(latency),
            f"{entry['largest_difference']:.1e}",
        ])  # fmt: skip
    return markdown(["file", "test accuracy, %", "MB", "ms for one image", "largest difference of a logit"], rows)


def task1_latency(stored: Results) -> str:
    """Milliseconds for a batch, by network, batch size and threads."""
    return _latency(stored.find("task1_latency/rows"))


def task2_latency(stored: Results) -> str:
    """The same for the networks of Task 2."""
    return _latency(stored.find("task2_latency/rows"))


def _latency(rows: list[dict]) -> str:
    cases = sorted({(row["batch"], row["threads"]) for row in rows})
    found = {(row["model"], row["batch"], row["threads"]): row for row in rows}
    names = list(dict.fromkeys(row["model"] for row in rows))
    cells = [[name, *(in_words(found[name, *case]) for case in cases)] for name in names]
    titles = [f"{batch} image{'s' if batch > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
              for batch, threads in cases]  # fmt: skip
    return markdown(["network", *titles], cells)


TASK2_SHOWN = {
    "auc": "AUC", "average_precision": "average precision", "f1": "F1 of SSA", "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced accuracy", "sensitivity": "sensitivity", "specificity": "specificity",
    "calibration_error": "calibration error",
}  # fmt: skip


def task2_main(stored: Results) -> str:
    """Teacher and students by every metric, beside both trivial answers."""
    rows = stored.find("task2_metrics/rows")
    cells = [
        [title, *(written(row[key], "estimate.3f" if isinstance(row[key], dict) else ".3f") for row in rows)]
        for key, title in TASK2_SHOWN.items()
    ]
    return markdown(["", *(row["name"] for row in rows)], cells)


def task2_methods(stored: Results) -> str:
    """The further methods against KD on the same schedule."""
    rows = []
    for row in stored.find("task2_methods/rows"):
        against = _corrected(row.get("against KD"), "gain.3f")
        rows.append([row["name"], *(written(row[key], "estimate.3f") for key in ("auc", "average_precision", "f1")),
                     *against])  # fmt: skip
    return markdown(["method", "AUC", "average precision", "F1 of SSA", "AUC minus KD's [95%]", "p"], rows)


def task2_verdicts(stored: Results) -> str:
    """Which of the further methods differ from KD, as a sentence."""
    against = {row["name"]: row["against KD"] for row in stored.find("task2_methods/rows") if "against KD" in row}
    sides = {name: _side(not float(d["corrected"]) <= 0.05, d["mean"]) for name, d in against.items()}
    return _sides_in_words("Better than KD in AUC:", sides)


def task2_questions(stored: Results) -> str:
    """Question 3, one factor at a time."""
    rows = [[row["name"], *_corrected(row, "gain.3f")] for row in stored.find("task2_questions/rows")]
    return markdown(["question", "AUC [95%]", "p"], rows, "lcc")


def task2_frozen(stored: Results) -> str:
    """What a start is worth while the base is frozen."""
    rows = [
        [row["name"], *(written(row[part], "estimate.3f") for part in ("pretrained", "random")),
         *_compared(row, "gain.3f")]
        for row in stored.find("task2_frozen/rows")
    ]  # fmt: skip
    return markdown(["network", "pretrained", "random", "difference [95%]", "the noise"], rows)


def task2_temperature_verdict(stored: Results) -> str:
    """Which temperatures differ from T = 4, as a sentence."""
    against = {row["T"]: float(row["against 4"]["corrected"]) for row in stored.find("task2_temperatures/rows")
               if "against 4" in row}  # fmt: skip
    told = ", ".join(f"$T={t}$" for t, p in against.items() if p <= 0.05)
    least = min(against.values())
    return f"By AUC {told or 'no temperature'} can be told from $T=4$ (smallest p, corrected: {least:.2f})."


def task2_temperature(stored: Results) -> str:
    """AUC at each temperature, and against T = 4."""
    rows = []
    for row in stored.find("task2_temperatures/rows"):
        rows.append([str(row["T"]), written(row["auc"], "estimate.3f"), *_corrected(row.get("against 4"), "gain.3f")])
    return markdown(["$T$", "AUC [95%]", "minus $T=4$ [95%]", "p"], rows)


def task2_counts(stored: Results) -> str:
    """Parameters and operations of the three networks."""
    rows = [[row["name"], *(f"{n:,}" for n in row["counts"].values())] for row in stored.find("task2_counts/rows")]
    columns = list(stored.find("task2_counts/rows")[0]["counts"])
    return markdown(["network", *columns], rows, "l" + "r" * len(columns))


def task2_shipped(stored: Results) -> str:
    """What each exported file of Task 2's student is worth."""
    rows = [
        [name, "{:.3f} [{:.3f}, {:.3f}]".format(entry["metrics"]["auc"], *entry["metrics"]["auc_interval"]),
         f"{entry['bytes'] / 1e6:.2f}", in_words(entry["latency_ms"])]
        for name, entry in stored.find("task2_shipped/files").items()
    ]  # fmt: skip
    return markdown(["file", "test AUC [95%]", "MB", "ms for one image"], rows)


def versions(stored: Results) -> str:
    """Python and the libraries that the stored results were made with, as a phrase."""
    first, second = (stored.find(f"summary-{task}/versions") for task in ("task1", "task2"))

    def told(name: str) -> str:
        one, other = first.get(name), second.get(name)
        if other in (one, None):
            return f"{name} {one}"
        return f"{name} {one} (Task 1), {other} (Task 2)" if one else f"{name} {other} (Task 2)"

    return ", ".join(map(told, first | second))


TABLES = {
    f.__name__: f
    for f in (
        task1_main,
        task1_temperature,
        task1_changes,
        task1_methods,
        task1_methods_short,
        task1_shifted,
        shifted_methods,
        shifted_verdicts,
        task1_controls,
        task1_two_classes,
        task1_best_student,
        task1_verdicts,
        task1_settings,
        task1_cost,
        task1_calibration,
        task1_robustness,
        task1_shipped,
        task1_latency,
        task2_main,
        task2_methods,
        task2_verdicts,
        task2_frozen,
        task2_questions,
        task2_temperature,
        task2_temperature_verdict,
        task2_counts,
        task2_latency,
        task2_shipped,
        versions,
    )
}
