"""Runs beside each other: a table for each data set with the settings that differ, as text, CSV, Markdown or JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.config import typed
from imgcls.errors import ConfigError, did_you_mean
from imgcls.metrics import METRICS, Metric, known_metrics, metric_of, percents
from imgcls.runs.effects import Effect, effects
from imgcls.runs.rows import RunRow
from imgcls.runs.statistics import Interval, confidence_interval, without_seed
from imgcls.runs.tables import duration_text, relative_to_here

FORMATS = ("text", "csv", "markdown", "json")
# Of settings that differ together the first of these is shown, or else the first by name.
LEADING = (
    "model._target_",
    "model.arch",
    "model.depth",
    "recipe.name",
    "optimizer._target_",
    "optimizer.lr",
    "optimizer.weight_decay",
    "schedule._target_",
    "batch_size",
    "epochs",
    "image_size",
    "seed",
)
MOST_COLUMNS = 6
MOST_EFFECTS = 12  # lines below a text table; JSON has all
WIDEST = 44  # of a cell in a text table; CSV, Markdown and JSON have the whole


@dataclass(frozen=True)
class Group:
    """The runs on one data set.

    Args:
        title: the data set's name, with its images where two sets have one name.
        rows: best first, or as asked for.
        columns: settings to show.
        left_out: more settings that differ, for which a text table has no room.
        seeds: means over runs that differ in the seed alone: the runs, and the interval of their top-1.
        effects: what each setting does to top-1, where runs differ in several.
    """

    title: str
    rows: list[RunRow]
    columns: list[str]
    left_out: list[str]
    seeds: list[tuple[list[RunRow], Interval]]
    effects: list[Effect]


def compare_rows(
    rows: Iterable[RunRow], *, where: Sequence[str] = (), sort: str = "top1", columns: Sequence[str] = ()
) -> list[Group]:
    """Return the runs by data set.

    Args:
        where: conditions on settings, scores and the state, all of which must hold: `seed=1`, `optimizer.lr<0.1`,
            `state!=failed`.
        sort: a metric, best first; or a setting, the smallest first; `-` before it turns the order.
        columns: settings to show beside those that differ.

    Raises:
        ConfigError: a condition or a name that no run has.
    """
    kept = list(rows)
    known = {*metrics_in(kept), "state", "run", *(key for row in kept for key in row.config)}
    for key in (sort.removeprefix("-"), *columns):
        _check_known(key, known)
    for condition in where:
        holds = _condition(condition, known)
        kept = [row for row in kept if holds(row)]
    return [_group(title, each, sort, columns) for title, each in sorted(_by_data(kept).items())]


def _check_known(key: str, known: set[str]) -> None:
    if known and key not in known:
        raise ConfigError(f"{key}: no run has such a setting or score{did_you_mean(key, known)}")


def metrics_in(rows: Iterable[RunRow]) -> dict[str, Metric]:
    """Return METRICS and the other top-k's that one of the runs has, by their names."""
    return known_metrics([*METRICS, *(name for row in rows for name in row.scores)])


def value_of(row: RunRow, key: str) -> Any:
    """Return a setting, a score, the state or the directory of a run, or None if it has none."""
    if metric_of(key):
        return row.scores.get(key)
    return {"state": row.state, "run": str(row.path)}.get(key, row.config.get(key))


def _condition(text: str, known: set[str]) -> Callable[[RunRow], bool]:
    match = re.fullmatch(r"([\w.]+)(<=|>=|!=|=|<|>)(.*)", text)
    if not match:
        raise ConfigError(f"where={text}: write a condition as seed=1, optimizer.lr<0.1 or state!=failed")
    key, sign, wanted = match.groups()
    _check_known(key, known)
    if sign in ("=", "!="):
        return lambda row: (_plain(value_of(row, key)) == _plain(_number(wanted))) == (sign == "=")
    limit = _number(wanted)
    if not isinstance(limit, float):
        raise ConfigError(f"where={text}: {wanted} is no number, which {sign} compares with")
    compare = {
        "<": lambda value: value < limit,
        ">": lambda value: value > limit,
        "<=": lambda value: value <= limit,
        ">=": lambda value: value >= limit,
    }[sign]
    return lambda row: isinstance(value := value_of(row, key), int | float) and compare(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """Return a value for a comparison with a typed one: a number, or true for True, null for None."""
    if value is None or isinstance(value, bool):
        return typed(value)
    if isinstance(value, int | float):
        return float(value)
    return str(value).lower() if str(value).lower() in ("true", "false", "null") else str(value)


def _by_data(rows: Iterable[RunRow]) -> dict[str, list[RunRow]]:
    """Return the runs by the title of their data set: its name, and its images where two sets have one name."""
    by_name: dict[str, dict[str, list[RunRow]]] = {}
    for row in rows:
        name = str(row.config.get("data.name", "unknown data"))
        by_name.setdefault(name, {}).setdefault(json.dumps(row.images, sort_keys=True), []).append(row)
    groups: dict[str, list[RunRow]] = {}
    for name, by_images in by_name.items():
        unfinished = by_images.pop("null", [])
        if len(by_images) <= 1:
            groups[name] = [*(row for each in by_images.values() for row in each), *unfinished]
            continue
        for images, each in by_images.items():
            facts = json.loads(images)
            known = ", ".join(f"{facts[key]} {key}" for key in ("classes", "training images") if key in facts)
            groups[f"{name} ({known}, {facts.get('checksum', 'of an earlier version')})"] = each
        if unfinished:
            groups[f"{name} (unfinished)"] = unfinished
    return groups


def _group(title: str, rows: list[RunRow], sort: str, columns: Sequence[str]) -> Group:
    differing = differing_keys([row.config for row in rows if row.config])
    shown = list(dict.fromkeys([*columns, *differing[:MOST_COLUMNS]]))
    left_out = [key for key in differing if key not in shown]
    # Of two runs alone the table says it all.
    found = effects(rows, differing) if len(rows) > 2 else []
    return Group(title, _sorted(rows, sort), shown, left_out, _over_seeds(rows), found)


def _sorted(rows: list[RunRow], sort: str) -> list[RunRow]:
    key, turned = sort.removeprefix("-"), sort.startswith("-")
    if metric := metric_of(key):
        turned = turned != metric.higher_is_better
    with_value = [row for row in rows if value_of(row, key) is not None]
    numbers = all(isinstance(value_of(row, key), int | float) for row in with_value)
    with_value.sort(key=lambda row: value_of(row, key) if numbers else str(value_of(row, key)), reverse=turned)
    return [*with_value, *(row for row in rows if value_of(row, key) is None)]


def differing_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the settings that differ between runs, one of those that differ together, the most telling first."""
    keys = {key for config in configs for key in config}
    rank = {key: number for number, key in enumerate(LEADING)}
    seen: dict[tuple[int, ...], str] = {}
    for key in sorted(keys, key=lambda key: (rank.get(key, len(rank)), key.startswith("data."), key)):
        values = [json.dumps(config.get(key), sort_keys=True) for config in configs]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
        if len(numbers) > 1:
            # Which runs have the same value, whatever it is: two keys alike in this say the same of the runs.
            seen.setdefault(tuple(numbers[value] for value in values), key)
    return list(seen.values())


def _over_seeds(rows: Iterable[RunRow]) -> list[tuple[list[RunRow], Interval]]:
    groups: dict[str, list[RunRow]] = {}
    for row in rows:
        if row.state == "finished" and row.scores.get("top1") is not None and "seed" in row.config:
            key = json.dumps([without_seed(row.config), row.images], sort_keys=True)
            groups.setdefault(key, []).append(row)
    return [
        (each, confidence_interval([row.scores["top1"] or 0.0 for row in each]))
        for each in groups.values()
        if len({row.config["seed"] for row in each}) == len(each) > 1
    ]


def render(groups: Sequence[Group], form: str = "text") -> str:
    """Return the groups as text, CSV, Markdown or JSON."""
    if form == "json":
        return json.dumps([_json(group) for group in groups], indent=2)
    if form == "csv":
        return _csv(groups)
    if not groups:
        return "no runs"
    return "\n\n".join(_table(group, markdown=form == "markdown") for group in groups)


def _cell(value: Any) -> str:
    """Return a setting as a cell: a class by its name, a number as it is typed."""
    if isinstance(value, bool) or value is None:
        return typed(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"[a-z_]\w*(\.\w+)*\.[A-Z]\w*", text) else text


def _heading(key: str) -> str:
    return key.removesuffix("._target_")


def table_cells(group: Group) -> list[list[str]]:
    """Return the table of a group, its headings first."""
    metrics = metrics_in(group.rows)
    shown = percents(metrics)
    titles = ["run", *(f"{metrics[name].title} %" for name in shown), *map(_heading, group.columns)]
    cells = [[*titles, "epoch", "time", "state"]]
    for row in group.rows:
        scores = ["-" if row.scores.get(name) is None else f"{row.scores[name]:.2f}" for name in shown]
        settings = [_cell(row.config.get(key)) for key in group.columns]
        epoch = f"{row.best_epoch} of {row.epochs}" if row.best_epoch else "-"
        time = "-" if row.seconds is None else duration_text(row.seconds)
        cells.append([relative_to_here(row.path), *scores, *settings, epoch, time, row.state_text])
    return cells


def table_notes(group: Group) -> list[str]:
    """Return the lines below a group's table: means over seeds, effects, and settings that it has no room for."""
    notes = [
        f"{relative_to_here(rows[0].path)} and {len(rows) - 1} more, over {len(rows)} seeds: {METRICS['top1'].title} "
        f"{interval} % (95 % interval)"
        for rows, interval in group.seeds
    ]
    shown = sorted(group.effects, key=lambda effect: -abs(effect.mean))[:MOST_EFFECTS]
    notes += [effect_text(effect) for effect in shown]
    if len(group.effects) > len(shown):
        notes.append(f"and {len(group.effects) - len(shown)} smaller effects, which format=json lists")
    if group.left_out:
        notes.append(f"also differ: {', '.join(group.left_out)} (columns=KEY shows one)")
    return notes


def effect_text(effect: Effect) -> str:
    """Return what a setting does to top-1, as a line."""
    points = f"{effect.mean:+.2f}" + (f" +- {effect.interval.half_width:.2f}" if effect.interval else "")
    pairs = f"{effect.num_pairs} pair{'s' if effect.num_pairs > 1 else ''}"
    of = f"95 % interval of {pairs}" if effect.interval else f"{pairs}, no interval"
    seeds = " of means over other seeds" if effect.over_seeds else ""
    also = f"; with it differ {', '.join(map(_heading, effect.also))}" if effect.also else ""
    return (
        f"effect of {_heading(effect.key)} {_cell(effect.before)} -> {_cell(effect.after)}: "
        f"{METRICS['top1'].title} {points} points ({of}{seeds}{also})"
    )


def _table(group: Group, *, markdown: bool) -> str:
    cells, notes = table_cells(group), table_notes(group)
    if markdown:
        lines = [f"## {group.title}", "", *_markdown(cells), *(["", *(f"- {note}" for note in notes)] if notes else [])]
        return "\n".join(lines)
    return "\n".join([group.title, *_aligned(cells), *notes])


def _aligned(cells: list[list[str]]) -> list[str]:
    short = [[_shortened(cell) if column < len(row) - 1 else cell for column, cell in enumerate(row)] for row in cells]
    widths = [max(len(row[column]) for row in short) for column in range(len(short[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if number in (0, len(row) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in short
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _shortened(text: str) -> str:
    half = (WIDEST - 3) // 2
    return text if len(text) <= WIDEST else f"{text[:half]}...{text[-half:]}"


def _markdown(cells: list[list[str]]) -> list[str]:
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return [rows[0], "|" + " --- |" * len(cells[0]), *rows[1:]]


def _facts(row: RunRow, metrics: Iterable[str]) -> dict[str, Any]:
    return {
        "run": relative_to_here(row.path),
        **{f"val/{name}": row.scores.get(name) for name in metrics},
        "best_epoch": row.best_epoch or None,
        "epochs": row.epochs,
        "seconds": row.seconds,
        "state": row.state,
        "reason": row.reason,
    }


def _csv(groups: Sequence[Group]) -> str:
    keys = list(dict.fromkeys(key for group in groups for key in [*group.columns, *group.left_out]))
    text = io.StringIO()
    metrics = metrics_in(row for group in groups for row in group.rows)
    facts = list(_facts(RunRow(Path()), metrics))
    rows = csv.DictWriter(text, ["data", *facts, *keys], lineterminator="\n")
    rows.writeheader()
    for group in groups:
        for row in group.rows:
            settings = {key: _cell(row.config[key]) for key in keys if key in row.config}
            rows.writerow({"data": group.title} | settings | _facts(row, metrics))
    return text.getvalue().rstrip("\n")


def _json(group: Group) -> dict[str, Any]:
    keys = [*group.columns, *group.left_out]
    return {
        "data": group.title,
        "differ": keys,
        "runs": [_facts(row, metrics_in(group.rows)) | {"config": row.config} for row in group.rows],
        "seeds": [
            {
                "runs": [relative_to_here(row.path) for row in rows],
                "mean": interval.mean,
                "half_width": interval.half_width,
            }
            for rows, interval in group.seeds
        ],
        "effects": [
            {
                "key": effect.key,
                "before": effect.before,
                "after": effect.after,
                "top1": effect.mean,
                "half_width": None if effect.interval is None else effect.interval.half_width,
                "pairs": effect.num_pairs,
                "over_seeds": effect.over_seeds,
                "also": list(effect.also),
            }
            for effect in group.effects
        ],
    }
