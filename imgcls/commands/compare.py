"""Print tables of runs, best first."""

from pathlib import Path

from imgcls.config import ScriptParser, run_script
from imgcls.environment import command, printable
from imgcls.runs import FORMATS, compare_rows, find_runs, render, row_of
from imgcls.sweeps import JOBS, read_jobs


def make_parser() -> ScriptParser:
    compare = command("compare")
    parser = ScriptParser(
        "compare",
        "Print a table of runs for each data set, best validation top-1 first, with the settings that differ, and the\n"
        "mean and 95 % interval over runs that differ in the seed alone.",
        epilog="examples:\n"
        f"  {compare}\n"
        f"  {compare} runs sweeps/x where=optimizer.lr<0.1 where=state=finished\n"
        f"  {compare} sort=loss columns=ema_decay\n"
        f"  {compare} format=csv > runs.csv",
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, or above them (default: runs)")
    parser.add_argument(
        "--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="show runs of which this holds"
    )
    parser.add_argument("--sort", default="top1", metavar="KEY", help="a metric or a setting; -KEY turns the order")
    parser.add_argument(
        "--columns", nargs="+", action="extend", default=[], metavar="KEY", help="show these settings too"
    )
    parser.add_choice("--format", FORMATS, help="what to print")
    return parser


def compare() -> None:
    """Print the tables of the runs that the command line names."""
    options = make_parser().parse()
    rows = [row_of(path) for path in runs_of(options.folders or [Path("runs")])]
    groups = compare_rows(rows, where=options.where, sort=options.sort, columns=options.columns)
    print(printable(render(groups, options.format)))


def runs_of(folders: list[Path]) -> list[Path]:
    """Return the runs in or below the folders; those of a sweep's directory are elsewhere, in its list of jobs."""
    sweeps = [folder for folder in folders if (folder / JOBS).is_file()]
    listed = {Path(job["run"]) for folder in sweeps for job in read_jobs(folder) if Path(job["run"]).is_dir()}
    return sorted({*listed, *find_runs(folder for folder in folders if folder not in sweeps)})


def main() -> None:
    """Run the command line."""
    run_script(compare)
