"""One HTML page of runs: a table and curves for each data set, what each run was made with, and its command."""

import base64
import contextlib
import json
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from imgcls import __version__
from imgcls.environment import command, printable
from imgcls.reports.chart import COLOURS, Line, svg_chart
from imgcls.runs import (
    METRICS_FILE,
    Group,
    RunRow,
    compare_rows,
    duration_text,
    read_capsule,
    read_metrics,
    relative_to_here,
    table_cells,
    table_notes,
    without_seed,
)

CURVES = {"val/top1": "validation top-1, %", "val/loss": "validation loss", "lr": "learning rate"}
MOST_LINES = 12
MOST_PICTURES = 6  # of a run
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1b1b; --faint: #666; --line: #ddd; --code: #f4f4f4 }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --text: #e6e6e6; --faint: #a0a0a0; --line: #3a3d43; --code: #23262c }
}
@media print { :root { --back: #fff; --text: #000; --faint: #444; --line: #bbb; --code: #f4f4f4 } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 75rem;
  margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; overflow-wrap: anywhere }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap }
td:first-child, td:last-child { white-space: normal; overflow-wrap: anywhere }
td:first-child { min-width: min(16rem, 40vw) } td:last-child { min-width: 9rem; max-width: 30rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem }
figure { margin: 0; break-inside: avoid } figcaption { font-weight: 600 }
svg { width: 100%; height: auto } svg text { fill: var(--faint); font-size: 12px } .grid { stroke: var(--line) }
ul.legend { list-style: none; padding: 0; columns: 22rem } .legend li { overflow-wrap: anywhere; break-inside: avoid }
.legend span { display: inline-block; width: 1.4rem; height: .25rem; margin-right: .5rem; vertical-align: middle }
pre { background: var(--code); padding: .5rem; white-space: pre-wrap; overflow-wrap: anywhere }
section.run { break-inside: avoid; border-top: 1px solid var(--line) } .faint { color: var(--faint) }
img { max-width: 100%; max-height: 22rem; background: #fff }
@media print {
  table { font-size: 10px } th, td { white-space: normal; padding: .15rem .3rem }
  .charts { display: block } .charts figure { display: inline-block; width: 48% } /* a grid is never broken */
}
"""


def report_page(rows: Iterable[RunRow], *, title: str = "Runs") -> str:
    """Return the page; nothing in it is loaded from elsewhere."""
    groups = compare_rows(rows)
    made = datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC")
    body = "".join(map(_group, groups)) or "<p>no runs</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        f'<h1>{_text(title)}</h1><p class="faint">imgcls {__version__}, {made}</p>{body}</body></html>\n'
    )


def _text(value: Any) -> str:
    return escape(printable(str(value)))


def _group(group: Group) -> str:
    heads, *cells = table_cells(group)
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heads)
    table = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in cells)
    notes = "".join(f"<p>{_text(note)}</p>" for note in table_notes(group))
    return (
        f'<h2>{_text(group.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{table}</tbody>'
        f"</table></div>{notes}{_charts(group)}{''.join(map(_run, group.rows))}"
    )


def _charts(group: Group) -> str:
    """Return the curves of the best runs: those that differ in the seed alone as one line in a band."""
    repeated: dict[str, list[RunRow]] = {}
    for row in group.rows:
        key = json.dumps(without_seed(row.config), sort_keys=True)
        repeated.setdefault(key if row.config else str(row.path), []).append(row)
    drawn = [lines for rows in repeated.values() if (lines := _lines(rows))["val/top1"].xs]
    shown = drawn[:MOST_LINES]
    charts = []
    for column, title in CURVES.items():
        if chart := svg_chart(title, [lines[column] for lines in shown]):
            charts.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    if not charts:
        return ""
    legend = "".join(
        f'<li><span style="background:{COLOURS[number % len(COLOURS)]}"></span>{_text(lines["lr"].name)}</li>'
        for number, lines in enumerate(shown)
    )
    more = len(drawn) - len(shown)
    left_out = f'<p class="faint">The curves of {more} more are not drawn.</p>' if more else ""
    return f'<div class="charts">{"".join(charts)}</div><ul class="legend">{legend}</ul>{left_out}'


def _lines(rows: Sequence[RunRow]) -> dict[str, Line]:
    """Return the curves of runs that differ in the seed: columns of metrics.csv at the ends of the epochs."""
    points: dict[str, dict[float, list[float]]] = {column: {} for column in CURVES}
    for row in rows:
        with contextlib.suppress(ValueError):  # a damaged file: the table says so
            for line in read_metrics(row.path / METRICS_FILE):
                for column in CURVES if line["val/top1"] else ():
                    if line.get(column):
                        points[column].setdefault(float(line["epoch"]), []).append(float(line[column]))
    name = relative_to_here(rows[0].path)
    name = name if len(rows) == 1 else f"{name} and {len(rows) - 1} more: mean, least and most over the seeds"
    return {column: _line(name, values) for column, values in points.items()}


def _line(name: str, points: dict[float, list[float]]) -> Line:
    xs = sorted(points)
    means = [sum(points[x]) / len(points[x]) for x in xs]
    return Line(name, xs, means, [min(points[x]) for x in xs], [max(points[x]) for x in xs])


def _throughput(row: RunRow) -> str:
    batch_size = row.config.get("batch_size")
    if not row.steps or not row.seconds or not batch_size:
        return ""
    rate = row.steps * batch_size / row.seconds
    took = f"{row.steps:,} steps of {batch_size} images in {duration_text(row.seconds)}"
    return f"{took}, {rate:,.0f} images/s with the validation"


def _run(row: RunRow) -> str:
    parts = [f'<section class="run"><h3>{_text(relative_to_here(row.path))}: {_text(row.state_text)}</h3>']
    with contextlib.suppress(ValueError):  # a run of an earlier version has no capsule
        start = read_capsule(row.path)[-1]
        packages = start.get("packages", {})
        commit = f"commit {start['commit'][:12]}" if start.get("commit") else f"imgcls {start.get('imgcls', '?')}"
        facts = [
            f"{start.get('device', '?')}, {start.get('processor', '?')}, {start.get('cores', '?')} cores",
            f"Python {start.get('python', '?')}, torch {packages.get('torch', '?')}",
            commit + (" with changes that were not committed" if start.get("changes") else ""),
            str(start.get("started", "")),
            _throughput(row),
        ]
        parts.append(f"<p>{_text('; '.join(filter(None, facts)))}</p>")
        words = shlex.join(map(str, start["words"]))
        parts.append(f"<pre>{_text(command('train'))} {_text(words)}</pre>")
    pictures = sorted([*row.path.glob("*.png"), *row.path.glob("evaluate/*/*.png")])[:MOST_PICTURES]
    for picture in pictures:
        with contextlib.suppress(OSError):
            data = base64.b64encode(picture.read_bytes()).decode()
            name = _text(picture.relative_to(row.path))
            parts.append(f'<figure><img alt="{name}" src="data:image/png;base64,{data}"></figure>')
    return "".join([*parts, "</section>"])
