"""Print a table of runs, best first."""

from pathlib import Path

from imgcls.config import ScriptParser, run_script
from imgcls.environment import printable
from imgcls.runs import find_runs, runs_table, seeds_table


def compare() -> None:
    """Print the table of the runs that the command line names."""
    parser = ScriptParser("compare", "Print a table of runs, best validation top-1 first.")
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, or above them (default: runs)")
    runs = find_runs(parser.parse().folders or [Path("runs")])
    print(printable("\n".join([runs_table(runs), *seeds_table(runs)])))


def main() -> None:
    """Run the command line."""
    run_script(compare)
