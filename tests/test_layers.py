"""The imports go one way, and only some modules know Hydra (DESIGN: config -> objects at one place)."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "imgcls"

LAYERS = [
    {"looking"},
    {"prediction", "exporting"},
    {"testing"},
    {"build", "reports"},
    {"trainer", "evaluation", "analysis"},
    {"protocols", "weights", "figures", "names", "published", "statistics", "gradcam", "folding"},
    {"recovery", "verify"},
    {"data", "optim", "losses", "checkpoint", "disk", "divergence", "memory", "events", "runs", "signals"},
    {"metrics"},
    {"distributed", "signatures"},
    {"config", "models", "words"},
]


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(file: Path) -> set[str]:
    known = set().union(*LAYERS)
    return {name.split(".")[1] for name in imports_of(file) if name.startswith("imgcls.")} & known


def test_imports_go_one_way() -> None:
    depth = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    for file in PACKAGE.rglob("*.py"):
        part = part_of(file)
        if part == "__init__":
            continue
        assert part in depth, f"{file} has no place among the layers"
        for other in parts_imported(file) - {part}:
            # The trainer validates by the evaluation's own centre protocol.
            assert depth[other] > depth[part] or (part, other) == ("trainer", "evaluation"), f"{part} imports {other}"


def test_config_and_models_stand_on_their_own() -> None:
    for file in [PACKAGE / "config.py", *(PACKAGE / "models").glob("*.py")]:
        assert parts_imported(file) <= {part_of(file)}, file


def test_only_config_and_build_know_hydra() -> None:
    for file in PACKAGE.rglob("*.py"):
        if part_of(file) not in ("config", "build"):
            assert not {name.split(".")[0] for name in imports_of(file)} & {"hydra", "omegaconf"}, file


def test_config_and_runs_import_no_torch() -> None:
    for name in ("config", "runs"):
        assert not {module.split(".")[0] for module in imports_of(PACKAGE / f"{name}.py")} & {"torch", "torchvision"}


def test_train_py_stays_within_forty_lines() -> None:
    assert len((PACKAGE.parent / "train.py").read_text().splitlines()) <= 40
