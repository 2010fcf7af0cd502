"""Print a table of runs, best first: `python scripts/compare.py [FOLDER ...]` (default: runs)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgcls.config import ScriptParser, run_script
from imgcls.runs import CONFIG, RESULTS, confidence_interval, find_runs, only_seeds_differ, runs_table, without_seed


def over_seeds(directories: Sequence[Path]) -> list[str]:
    """A line for each group of finished runs that differ in nothing but the seed: the mean and its 95 % interval."""
    groups: dict[str, list[tuple[Path, dict[str, Any], float]]] = {}
    for path in directories:
        results, config = path / RESULTS, json.loads((path / CONFIG).read_text())
        if results.is_file() and "seed" in config:
            key = json.dumps(without_seed(config), sort_keys=True)
            groups.setdefault(key, []).append((path, config, json.loads(results.read_text())["val_top1"]))
    lines = []
    for group in groups.values():
        if len(group) > 1 and only_seeds_differ([config for _, config, _ in group]):
            interval = confidence_interval([top1 for _, _, top1 in group])
            first = group[0][0]
            lines.append(
                f"{first} and {len(group) - 1} more, over {len(group)} seeds: top-1 {interval} % (95 % interval)"
            )
    return lines


def compare() -> None:
    """Print the table of the runs that the command line names."""
    parser = ScriptParser("Print a table of runs, best validation top-1 first.")
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, or above them (default: runs)")
    runs = find_runs(parser.parse().folders or [Path("runs")])
    print("\n".join([runs_table(runs), *over_seeds(runs)]))


if __name__ == "__main__":
    run_script(compare)
