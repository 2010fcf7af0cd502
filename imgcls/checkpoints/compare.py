"""Compare two runs to the last bit: weights, optimizer, metrics."""

from pathlib import Path
from typing import Any, NamedTuple

from imgcls.checkpoints.file import checksum, load_checkpoint
from imgcls.runs import BEST, EVENT_FILES, LAST, METRICS_FILE

BY_THE_CLOCK = "usage/"  # the group of values that no two runs share: speed, waiting, memory


class Verdict(NamedTuple):
    """One part of two runs: `differences` names what is not the same, and is empty if everything is."""

    part: str
    compared: str
    differences: list[str]


def compare_runs(one: Path, other: Path) -> list[Verdict]:
    """Compare the runs in two directories.

    Raises:
        FileNotFoundError: one of them has no last.pt.
        CheckpointError: a file is damaged.
    """
    verdicts = []
    last = [_without_clock(load_checkpoint(path / LAST)) for path in (one, other)]
    for part in ("model", "average", "optimizer", "schedule", "scaler", "state", "meters"):
        verdicts.append(_verdict(part, *(saved[part] for saved in last)))
    verdicts.append(_verdict(BEST, *(_best(path / BEST) for path in (one, other))))
    verdicts.append(_verdict(METRICS_FILE, *((path / METRICS_FILE).read_text().splitlines() for path in (one, other))))
    if any(path.glob(EVENT_FILES) for path in (one, other)):
        verdicts.append(_verdict("TensorBoard", *(_scalars(path) for path in (one, other))))
    return verdicts


def verdict_table(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a text table."""
    width = max(len(verdict.part) for verdict in verdicts)
    between = max(len(verdict.compared) for verdict in verdicts)
    lines = []
    for part, compared, differences in verdicts:
        shown = ", ".join(differences[:3]) + (f", and {len(differences) - 3} more" if len(differences) > 3 else "")
        lines.append(f"{part:<{width}}  {compared:<{between}}  {f'DIFFERENT: {shown}' if differences else 'the same'}")
    return "\n".join(lines)


def _verdict(part: str, one: Any, other: Any) -> Verdict:
    if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
        return Verdict(part, f"{len(one)} lines", [f"{len(one)} and {len(other)} lines"])
    num = sum(1 for _ in _leaves(one))
    return Verdict(part, f"{num} {'line' if isinstance(one, list) else 'value'}{'s' * (num != 1)}", _named(one, other))


def _named(one: Any, other: Any) -> list[str]:
    return [name or "all of it" for name in list_differences(one, other)]


def _leaves(tree: Any) -> Any:
    if isinstance(tree, dict | list | tuple):
        for node in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(node)
    elif tree is not None:
        yield tree


def _without_clock(saved: dict[str, Any]) -> dict[str, Any]:
    del saved["events"], saved["state"]["seconds"]
    return saved


def _best(path: Path) -> dict[str, Any] | None:
    saved = load_checkpoint(path) if path.exists() else None
    return saved and {key: saved[key] for key in ("model", "epoch", "val")}


def _scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith(BY_THE_CLOCK)
    }


def list_differences(one: Any, other: Any, *, name: str = "") -> list[str]:
    """Return the name of every leaf of two trees that differs in any bit: `["optimizer.state.3.momentum_buffer"]`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            difference
            for key in keys
            for difference in list_differences(one.get(key), other.get(key), name=f"{name}.{key}" if name else str(key))
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [difference for i, pair in pairs for difference in list_differences(*pair, name=f"{name}.{i}")]
    return [] if checksum(one) == checksum(other) else [name]
