"""Print tables of runs, best first."""

from pathlib import Path

from imgcls.config import ScriptParser, run_script
from imgcls.environment import command, printable
from imgcls.errors import ConfigError
from imgcls.runs import FORMATS, compare_rows, diff_runs, find_runs, render, render_differences, row_of
from imgcls.sweeps import JOBS, read_jobs


def make_parser() -> ScriptParser:
    compare = command("compare")
    parser = ScriptParser(
        "compare",
        "Print a table of runs for each data set, best validation top-1 first: the settings that differ, the mean and\n"
        "95 % interval over runs that differ in the seed alone, and the effect of each setting on top-1, paired by\n"
        "all others. With --diff print what differs between two runs: config, code, packages, machine, data, curves.",
        epilog="examples:\n"
        f"  {compare}\n"
        f"  {compare} runs sweeps/x where=optimizer.lr<0.1 where=state=finished\n"
        f"  {compare} sort=loss columns=ema_decay\n"
        f"  {compare} format=csv > runs.csv\n"
        f"  {compare} --diff runs/a/x runs/a/y",
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
    parser.add_flag("--diff", help="print what differs between the two runs that are named")
    return parser


def compare() -> None:
    """Print the tables of the runs that the command line names."""
    options = make_parser().parse()
    if options.diff:
        print(printable(_differences(options.folders, options.format)))
        return
    rows = [row_of(path) for path in runs_of(options.folders or [Path("runs")])]
    groups = compare_rows(rows, where=options.where, sort=options.sort, columns=options.columns)
    print(printable(render(groups, options.format)))


def _differences(folders: list[Path], form: str) -> str:
    if len(folders) != 2:
        raise ConfigError(f"--diff: name two runs, not {len(folders)}: --diff runs/a/x runs/a/y")
    if form not in ("text", "json"):
        raise ConfigError(f"format={form}: --diff prints text or json")
    return render_differences(diff_runs(*folders), form)


def runs_of(folders: list[Path]) -> list[Path]:
    """Return the runs in or below the folders; those of a sweep's directory are elsewhere, in its list of jobs."""
    sweeps = [folder for folder in folders if (folder / JOBS).is_file()]
    listed = {Path(job["run"]) for folder in sweeps for job in read_jobs(folder) if Path(job["run"]).is_dir()}
    return sorted({*listed, *find_runs(folder for folder in folders if folder not in sweeps)})


def main() -> None:
    """Run the command line."""
    run_script(compare)
