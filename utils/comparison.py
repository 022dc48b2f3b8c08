"""Methods compared under one protocol: each chooses its setting on validation, then all run from equal starts."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import stats

from utils import cost, metrics, results, signals
from utils.data import Dataset, Split
from utils.methods import Method
from utils.runs import Run
from utils.settings import settings
from utils.training import train_and_evaluate, values


def choose(
    candidates: Sequence[Method], data: Dataset, teacher, *, build_model, seeds, **options
) -> tuple[Method, list]:
    """The setting with the highest validation accuracy, and [(setting, accuracy)] of all.

    The first of `candidates`, the one that comes recommended, stays if it lies within one standard error of the best:
    sqrt(a (1 - a) / n) for an accuracy a on n images. `teacher` was trained without the validation split. A single
    setting is no choice, and nothing is trained for it.
    """
    if len(candidates) == 1:
        return candidates[0], []
    found = []
    for number, method in enumerate(candidates, 1):
        runs = [
            train_and_evaluate(
                build_model, method, data, teacher=teacher, seed=seed, purpose="choose",
                title=f"[{method.name}, setting {number}/{len(candidates)}] seed {seed}", **options,
            )
            for seed in seeds
        ]  # fmt: skip
        found.append((method, float(values(runs).mean())))
    best, accuracy = max(found, key=lambda pair: pair[1])
    standard_error = np.sqrt(accuracy * (1 - accuracy) / len(data.validation))
    return (found[0][0] if accuracy - found[0][1] <= standard_error else best), found


def across_seeds(method: Method, data: Dataset, teachers: dict, *, build_model, title="", **options) -> list[Run]:
    """A run for each seed, under the teacher (or tuple of teachers) of that seed."""
    return [
        train_and_evaluate(
            build_model,
            method,
            data,
            teacher=teacher,
            seed=seed,
            title=f"{title or method.name}, seed {seed}",
            **options,
        )
        for seed, teacher in teachers.items()
    ]


def training_seconds(run: Run | tuple | keras.Model | None) -> float:
    """Seconds of training behind a run: its own and those of all whom it was distilled from, each counted once.

    Not counted: asking the teacher. A model that is no recorded run counts as 0.
    """
    return sum(_seconds_by_run(run).values())


def _seconds_by_run(run) -> dict[str, float]:
    if isinstance(run, tuple):
        return {key: seconds for member in run for key, seconds in _seconds_by_run(member).items()}
    if not isinstance(run, Run):
        return {}
    return {run.key: run.record["training_seconds"]} | _seconds_by_run(run.teacher)


def corrected(p_values: dict[str, float]) -> dict[str, float]:
    """p-values after Benjamini and Hochberg, over those that are defined: the rate of false claims among the claims."""
    defined = {name: p for name, p in p_values.items() if np.isfinite(p)}
    if not defined:
        return dict(p_values)
    return p_values | dict(zip(defined, stats.false_discovery_control(list(defined.values())).tolist(), strict=True))


def compare(runs: dict[str, list[Run]], reference: str = "kd") -> pd.DataFrame:
    """One row for each name, best mean accuracy first; differences are paired by seed with the reference.

    Columns: accuracy, sd, low, high (of the mean, %), errors, difference, difference low and high (points), p
    (corrected over the rows), tie (p is above 0.05 or undefined), agreement (with its own teacher, which some
    methods make for themselves) and calibration (%), KL to that teacher (nats), cost (training seconds with the
    teachers', in those of the reference), parameters and FLOPs of what is deployed.
    """
    if reference not in runs:
        raise ValueError(f"The reference {reference!r} is not among the runs; there are {sorted(runs)}.")
    seeds = {name: [run.record["config"]["seed"] for run in group] for name, group in runs.items()}
    if len({tuple(s) for s in seeds.values()}) > 1:
        raise ValueError(f"The methods were run with different seeds, so their runs are no pairs: {seeds}.")
    against = runs[reference]
    reference_seconds = sum(training_seconds(run) for run in against)
    rows = {}
    for name, group in runs.items():
        accuracy = metrics.mean_interval(100 * values(group))
        pair = metrics.paired_difference(100 * values(group), 100 * values(against))
        means = {
            part: float(values(group, part).mean())
            for part in ("errors", "agreement", "kl_to_teacher", "calibration_error")
        }
        model = group[0].make_model()  # counts need no trained weights
        rows[name] = {
            "accuracy": accuracy["mean"], "sd": accuracy["sd"], "low": accuracy["low"], "high": accuracy["high"],
            "errors": means["errors"], "difference": pair["mean"], "difference low": pair["low"],
            "difference high": pair["high"], "p": pair["p_value"], "agreement": 100 * means["agreement"],
            "KL to teacher": means["kl_to_teacher"], "calibration error": 100 * means["calibration_error"],
            "cost": sum(training_seconds(run) for run in group) / reference_seconds,
            "parameters": cost.count_parameters(model), "FLOPs": cost.count_flops(model),
        }  # fmt: skip
    p = corrected({name: row["p"] for name, row in rows.items() if name != reference})
    for name, row in rows.items():
        row["p"] = p.get(name, float("nan"))
        row["tie"] = name != reference and not (row["p"] <= 0.05)
    return pd.DataFrame(rows).T.sort_values("accuracy", ascending=False, kind="stable")


def invented_subclasses(teacher: keras.Model, images: np.ndarray) -> np.ndarray:
    """The subclass that a teacher with subclasses puts each uint8 image in, int32 [n]: its highest subclass logit."""
    by_subclass = keras.Model(teacher.inputs, teacher.get_layer("logits").output)
    return signals.predict_logits(by_subclass, images).argmax(axis=-1).astype(np.int32)


def subclass_alignment(run: Run, split: Split, folder: Path | None = None) -> dict[str, float]:
    """`metrics.subclass_alignment` of what a trained teacher invented with what `split` knows, measured once.

    It is recorded beside the runs (or in `folder`), so that a machine that has the records but not the weights need
    not train the teacher again for two numbers.
    """
    folder = Path(folder or settings.runs)

    def config():
        trained = run.record["config"]
        return {name: trained[name] for name in ("task", "model", "method", "profile", "seed")} | {
            "purpose": "alignment",
            "weights": run.record["weights_digest"],
            "images": results.digest(split.images, split.subclasses),
            "code": results.code_version(invented_subclasses, metrics.subclass_alignment),
        }

    if (record := results.load_record(folder, config())) is None:
        found = invented_subclasses(run.model(), split.images)  # which may have to train it, to other weights
        measured = metrics.subclass_alignment(split.subclasses, found)
        results.save_record(folder, config(), {"status": "finished", "metrics": measured})
        record = results.load_record(folder, config())
    return record["metrics"]


def gain(runs: Sequence[Run], reference: Sequence[Run]) -> str:
    """Points of test accuracy that runs have over others, paired by seed: "+0.26 [+0.22, +0.30]", and the noise."""
    d = metrics.paired_difference(100 * values(runs), 100 * values(reference))
    noise = "" if d["outside_noise"] else ", inside the noise"
    return f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]{noise}"


def p_in_words(p: float) -> str:
    """ "= 0.024", or "< 0.001" where three digits would say zero."""
    return "< 0.001" if p < 0.0005 else f"= {p:.3f}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `compare` with as many digits as mean something, for reading."""
    numbers = table.astype({column: float for column in table if column != "tie"})
    return pd.DataFrame({
        "test accuracy, %": [f"{a:.2f} ± {s:.2f}" for a, s in zip(numbers["accuracy"], numbers["sd"], strict=True)],
        "errors": numbers["errors"].round(1),
        "against kd, points [95%]": [
            f"{d:+.2f} [{low:+.2f}, {high:+.2f}]" if low or high else ""  # the reference itself
            for d, low, high in numbers[["difference", "difference low", "difference high"]].to_numpy()
        ],
        "p, corrected": [p_in_words(p).removeprefix("= ") if np.isfinite(p) else "" for p in numbers["p"]],
        "": ["tie with kd" if tie else "" for tie in numbers["tie"]],
        "agreement with its teacher, %": numbers["agreement"].round(2),
        "KL to its teacher, nats": numbers["KL to teacher"].round(4),
        "calibration error, %": numbers["calibration error"].round(2),
        "training time / kd's": numbers["cost"].round(2),
        "parameters": [f"{n:,.0f}" for n in numbers["parameters"]],
        "FLOPs": [f"{n:,.0f}" for n in numbers["FLOPs"]],
    }, index=table.index)  # fmt: skip
