"""Write a small project: a network of one's own, its configs, and a test."""

import shutil
from pathlib import Path

from imgcls.config import ScriptParser, run_script

PROJECT = Path(__file__).with_name("project")


def write_project(target: Path) -> list[Path]:
    """Copy the project to `target`, a new or empty folder, and return its files.

    Raises:
        ValueError: `target` holds something, or is no folder.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already; name a new folder")
    shutil.copytree(PROJECT, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(path for path in target.rglob("*") if path.is_file())


def init() -> None:
    """Write the project that the command line asks for."""
    parser = ScriptParser("init", "Write a small project: a network of your own, its configs, and a test.")
    parser.add_argument("folder", type=Path, help="a new folder")
    target = parser.parse().folder
    for file in write_project(target):
        print(file)
    print(f"next: cd {target} && imgcls train --config-dir conf experiment=mine")


def main() -> None:
    """Run the command line."""
    run_script(init)
