"""Print a table of runs, best first: `python scripts/compare.py [FOLDER ...]` (default: runs)."""

import argparse
from pathlib import Path

from imgcls.runs import find_runs, runs_table, seeds_table


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a table of runs, best validation top-1 first.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], help="folders of runs (default: runs)")
    try:
        runs = find_runs(parser.parse_args().folders)
    except FileNotFoundError as error:
        parser.error(str(error))
    print("\n".join([runs_table(runs), *seeds_table(runs)]))


if __name__ == "__main__":
    main()
