"""Print a table of runs, best first: `python scripts/compare.py [FOLDER ...]` (default: runs)."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from imgcls import runs, statistics


def over_seeds(directories: Sequence[Path]) -> list[str]:
    """A line for each group of finished runs that differ in nothing but the seed: the mean and its 95 % interval."""
    groups: dict[str, list[tuple[Path, dict[str, Any], float]]] = {}
    for path in directories:
        results, config = path / runs.RESULTS, json.loads((path / runs.CONFIG).read_text())
        if results.is_file() and "seed" in config:
            key = json.dumps(statistics.without_seed(config), sort_keys=True)
            groups.setdefault(key, []).append((path, config, json.loads(results.read_text())["val_top1"]))
    lines = []
    for group in groups.values():
        if len(group) > 1 and statistics.only_seeds_differ([config for _, config, _ in group]):
            interval = statistics.confidence_interval([top1 for _, _, top1 in group])
            first = group[0][0]
            lines.append(
                f"{first} and {len(group) - 1} more, over {len(group)} seeds: top-1 {interval} % (95 % interval)"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a table of runs, best validation top-1 first.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], help="where runs lie (default: runs)")
    try:
        found = runs.find(parser.parse_args().folders)
        print("\n".join([runs.table(found), *over_seeds(found)]))
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
