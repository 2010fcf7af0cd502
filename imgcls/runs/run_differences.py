"""What differs between two runs: their config, code, packages, machine, data and curves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imgcls.config import typed, with_new_settings
from imgcls.metrics import METRICS
from imgcls.runs.capsule import CAPSULE, MOST_DIFF, diff_name, differing_facts, git, read_capsule
from imgcls.runs.directory import BESIDE_SETTINGS, CONFIG, METRICS_FILE, RESULTS, config_differences
from imgcls.runs.rows import RunRow, row_of
from imgcls.runs.saved import check_results, read_json, read_metrics
from imgcls.runs.tables import relative_to_here

# The part of a run that a fact of its capsule belongs to; what is not named is of the machine.
PARTS = {"imgcls": "code", "commit": "code", "changes": "code", "packages": "packages", "python": "packages"}
SCORES = tuple(name for name in METRICS if METRICS[name].in_progress)
MOST_EPOCHS = 8
MOST_FILES = 12


class Difference(NamedTuple):
    """Something that differs, with its value in either run; None where a run has none."""

    name: str
    first: Any
    second: Any


class RunDifferences(NamedTuple):
    """What differs between two runs.

    Args:
        first, second: the runs.
        parts: config, code, packages, machine and data, each with what differs in it.
        notes: what cannot be compared, and more about the code, as lines.
        same_until: the last step up to which metrics.csv is the same in both, 0 if it differs from the start.
        same_curves: metrics.csv is the same in both.
        curves: the scores in both runs at the ends of some epochs, by epoch.
    """

    first: RunRow
    second: RunRow
    parts: dict[str, list[Difference]]
    notes: list[str]
    same_until: int
    same_curves: bool
    curves: list[tuple[int, list[Difference]]]


def diff_runs(first: Path, second: Path) -> RunDifferences:
    """Return what differs between the runs in two directories.

    Raises:
        FileNotFoundError: one holds no run.
        ValueError: a file of one is damaged.
    """
    for path in (first, second):
        if not (path / CONFIG).is_file():
            what = "holds no run: it has no config.json" if path.is_dir() else "there is no such folder"
            raise FileNotFoundError(f"{path}: {what}; runs are in runs/<model>-<data>/<overrides>")
    notes: list[str] = []
    parts: dict[str, list[Difference]] = {"config": _of_config(first, second)}
    parts |= {name: [] for name in ("code", "packages", "machine")}
    starts = [_last_start(path, notes) for path in (first, second)]
    if starts[0] is not None and starts[1] is not None:
        for fact, name, one, other in differing_facts(starts[0], starts[1]):
            parts[PARTS.get(fact, "machine")].append(Difference(name, one, other))
        notes += _code_notes((first, second), (starts[0], starts[1]))
    parts["data"] = _of_data(first, second, notes)
    same_until, same, curves = _of_curves(first, second)
    return RunDifferences(row_of(first), row_of(second), parts, notes, same_until, same, curves)


def _of_config(first: Path, second: Path) -> list[Difference]:
    configs = [read_json(path / CONFIG) or {} for path in (first, second)]
    one, other = ({key: value for key, value in each.items() if key not in BESIDE_SETTINGS} for each in configs)
    one, other = with_new_settings(one, other), with_new_settings(other, one)
    return [Difference(key, *values) for key, values in config_differences(one, other).items()]


def _last_start(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Return what the last start of a run was made with, or None if the run has no capsule."""
    if not (path / CAPSULE).exists():
        notes.append(f"{relative_to_here(path)} has no {CAPSULE}: its code, packages and machine are unknown")
        return None
    starts = read_capsule(path)
    if changed := sorted({name for start in starts[:-1] for _, name, *_ in differing_facts(start, starts[-1])}):
        shown = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        notes.append(
            f"{relative_to_here(path)} was resumed with another {shown}; its last of {len(starts)} starts is shown"
        )
    return starts[-1]


def _code_notes(paths: Sequence[Path], starts: Sequence[dict[str, Any]]) -> list[str]:
    """Return which files of the code differ, by the commits and by the changes that were not committed."""
    notes = []
    commits = [str(start.get("commit") or "") for start in starts]
    if all(commits) and commits[0] != commits[1]:
        names = git("diff", "--name-only", *commits).split("\n")
        files = [name for name in names if name]
        notes.append(
            f"git diff {commits[0][:12]} {commits[1][:12]}: {_files(files)}"
            if files
            else "this checkout does not have both commits, or they have the same files"
        )
    if starts[0].get("changes") != starts[1].get("changes"):
        for path, start in zip(paths, starts, strict=True):
            if start.get("changes"):
                file = path / diff_name(start["changes"])
                notes.append(f"not committed in {relative_to_here(path)}: {_changed_files(file)}")
    return notes


def _changed_files(file: Path) -> str:
    try:
        lines = file.read_bytes()[:MOST_DIFF].decode(errors="replace").splitlines()
    except OSError:
        return f"{file.name}, which is gone"
    files = [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]
    return f"{_files(files)} ({file.name})"


def _files(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_FILES]) + (f" and {len(names) - MOST_FILES} more" if len(names) > MOST_FILES else "")


def _of_data(first: Path, second: Path, notes: list[str]) -> list[Difference]:
    results = [read_json(path / RESULTS, check=check_results) for path in (first, second)]
    for path, each in zip((first, second), results, strict=True):
        if each is None:
            notes.append(f"{relative_to_here(path)} has not finished: its images are not known from its results")
    if results[0] is None or results[1] is None:
        return []
    one, other = (each.get("data", {}) | {"folder": each.get("data_root")} for each in results if each is not None)
    return [Difference(key, *values) for key, values in config_differences(one, other).items()]


def _of_curves(first: Path, second: Path) -> tuple[int, bool, list[tuple[int, list[Difference]]]]:
    one, other = (read_metrics(path / METRICS_FILE) for path in (first, second))
    same_until = 0
    for row, beside in zip(one, other, strict=False):
        if row != beside:
            break
        same_until = int(row["step"])
    ends = [{int(row["epoch"]): row for row in rows if row["val/top1"]} for rows in (one, other)]
    shared = sorted(ends[0].keys() & ends[1].keys())
    curves = []
    for epoch in _some(shared):
        rows = [each[epoch] for each in ends]
        scores = [
            Difference(f"val/{name}", *(float(row[f"val/{name}"]) for row in rows))
            for name in SCORES
            if all(row.get(f"val/{name}") for row in rows)
        ]
        curves.append((epoch, scores))
    return same_until, one == other, curves


def _some(epochs: list[int]) -> list[int]:
    """Return at most MOST_EPOCHS of the epochs, the first and the last among them."""
    if len(epochs) <= MOST_EPOCHS:
        return epochs
    return [epochs[round(number * (len(epochs) - 1) / (MOST_EPOCHS - 1))] for number in range(MOST_EPOCHS)]


def render_differences(found: RunDifferences, form: str = "text") -> str:
    """Return what differs between two runs as text or JSON."""
    if form == "json":
        return _json(found)
    lines = []
    for letter, row in (("A", found.first), ("B", found.second)):
        top1 = row.scores.get("top1")
        score = "" if top1 is None else f", {METRICS['top1'].title} {METRICS['top1'].text(top1)}"
        lines.append(f"{letter}  {relative_to_here(row.path)}: {row.state_text}{score}")
    for name, differences in found.parts.items():
        lines += ["", name]
        lines += [f"  {each.name}: {_shown(each.first)} -> {_shown(each.second)}" for each in differences]
        lines += [] if differences else ["  no difference"]
    lines += ["", "curves", *(f"  {line}" for line in _curve_lines(found))]
    return "\n".join([*lines, *([""] if found.notes else []), *(f"note: {note}" for note in found.notes)])


def _shown(value: Any) -> str:
    return "none" if value is None else typed(value)


def _curve_lines(found: RunDifferences) -> list[str]:
    if found.same_curves:
        return ["the same to the last digit" if found.curves or found.same_until else "none yet"]
    lines = [f"the same until step {found.same_until}" if found.same_until else "they differ from the first line"]
    for epoch, scores in found.curves:
        values = [
            f"{each.name} {each.first:.4g} -> {each.second:.4g} ({each.second - each.first:+.4g})" for each in scores
        ]
        lines.append(f"epoch {epoch}: {', '.join(values)}")
    return lines


def _json(found: RunDifferences) -> str:
    def pairs(differences: Sequence[Difference]) -> dict[str, list[Any]]:
        return {each.name: [each.first, each.second] for each in differences}

    content = {
        "runs": [relative_to_here(row.path) for row in (found.first, found.second)],
        "top1": [row.scores.get("top1") for row in (found.first, found.second)],
        **{name: pairs(differences) for name, differences in found.parts.items()},
        "curves": {
            "same": found.same_curves,
            "same_until_step": found.same_until,
            "epochs": {str(epoch): pairs(scores) for epoch, scores in found.curves},
        },
        "notes": found.notes,
    }
    return json.dumps(content, indent=2)
