"""Run a run again, from its capsule, beside the first one."""

import os
import subprocess
from pathlib import Path

from imgcls.config import ScriptParser, run_script
from imgcls.environment import printable, start_command
from imgcls.errors import ConfigError
from imgcls.runs import RESULTS, check_results, describe_start, diff_name, differences, read_capsule, read_json

DROPPED = ("name=", "hydra.run.dir=", "overwrite=", "sweep.")


def replay_words(words: list[str], out: Path) -> list[str]:
    """Return a run's words for another directory."""
    kept = [word for word in words if not word.lstrip("-").startswith(DROPPED)]
    return [*kept, f"hydra.run.dir='{out}'"]


def replay() -> int:
    """Train the run that the command line names again, and compare the results."""
    parser = ScriptParser(
        "replay", "Run a run again from its capsule, in a directory beside it, and compare the results."
    )
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the new run (default: the run's, with -replay)")
    parser.add_flag("--dry", help="only say what differs now, and the command")
    options = parser.parse()
    run = options.run
    out = (options.out or run.with_name(f"{run.name}-replay")).absolute()
    first, *later = read_capsule(run)
    if not Path(first["folder"]).is_dir():
        raise ConfigError(f"{run} was trained in {first['folder']}, which its words may count on and which is gone")
    now = describe_start(first["words"], first.get("device", ""))
    for line in differences(first, now):
        print(printable(f"differs: {line}"))
    if first.get("changes"):
        print(printable(f"its code had changes that were not committed: {run / diff_name(first['changes'])}"))
    if later:
        print(f"it was resumed {len(later)} times; the replay is not broken")
    command = [*start_command("train"), *replay_words(first["words"], out)]
    print(printable(f"in {first['folder']}: {' '.join(command)}"), flush=True)
    if options.dry:
        return 0
    code = subprocess.run(command, cwd=first["folder"], env=os.environ | first.get("environment", {})).returncode
    if code == 0:
        print(printable(_compared(run, out)))
    return code


def _compared(run: Path, out: Path) -> str:
    before, after = (read_json(path / RESULTS, check=check_results) for path in (run, out))
    if before is None or after is None:
        return f"{run} has not finished, so there is nothing to compare"
    values = [f"{key}: {before[key]} then, {after[key]} now" for key in before if key.startswith("val_")]
    same = all(before[key] == after.get(key) for key in before if key.startswith("val_"))
    return f"{'the same results' if same else 'other results'} ({'; '.join(values)})"


def main() -> None:
    """Run the command line."""
    run_script(replay)
