"""Write runs as one HTML page."""

from pathlib import Path

from imgcls.commands.compare import runs_of
from imgcls.config import ScriptParser, run_script
from imgcls.environment import printable
from imgcls.reports import report_page
from imgcls.runs import durable_file, name_disk_errors, row_of


def report() -> None:
    """Write the page of the runs that the command line names."""
    parser = ScriptParser(
        "report",
        "Write runs as one HTML page that needs no network: tables, curves with seeds as bands, the pictures in the\n"
        "runs' directories, what each run was made with, and its command.",
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, or above them (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="(default: report.html)")
    parser.add_argument("--title", default="Runs", metavar="TEXT", help="of the page (default: Runs)")
    options = parser.parse()
    rows = [row_of(path) for path in runs_of(options.folders or [Path("runs")])]
    if not rows:
        raise ValueError("there are no runs there to report on")
    with name_disk_errors(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with durable_file(options.out) as file:
            file.write(report_page(rows, title=options.title).encode(errors="replace"))
    print(printable(str(options.out)))


def main() -> None:
    """Run the command line."""
    run_script(report)
