"""Print a table of runs, best first: `python scripts/compare.py [FOLDER ...]` (default: runs)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from imgcls import runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a table of runs, best validation top-1 first.")
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("runs")], help="where runs lie (default: runs)")
    try:
        print(runs.table(runs.find(parser.parse_args().folders)))
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
