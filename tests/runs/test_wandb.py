"""Weights & Biases, offline, by its real package."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgcls.config import Config

Make = Callable[..., Config]
Train = Callable[..., dict[str, Any]]
BLOCK, FULL, LAST = 2**15, 1, 4


def pieces(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, after 7 bytes that say what the file is."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:  # the rest of a block that has no room for a header
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (FULL, LAST):
            yield whole
            whole = b""


def logged(folder: Path) -> Iterator[tuple[str, Any]]:
    """The records of every offline run in `folder`, oldest first: the kind of record and the record."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for piece in pieces(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(piece)
            yield record.WhichOneof("record_type"), record


@pytest.mark.e2e
def test_wandb_offline_has_what_tensorboard_has_and_goes_on_with_the_run(
    tiny_config: Make, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["logger=[tensorboard,wandb]", "logger.wandb.mode=offline", f"logger.wandb.folder={tmp_path}"]
    train(tiny_config("epochs=1", *words))
    train(tiny_config("epochs=2", "continue_run=true", *words))
    scalars: dict[str, list[tuple[int, float]]] = {}
    pictures, settings, ids = set(), {}, set()
    for kind, record in logged(tmp_path):
        if kind == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            parts = {item.nested_key[0] for item in record.history.item if len(item.nested_key) > 1}
            pictures |= parts
            for tag in values.keys() - parts - {"step"}:
                if not tag.startswith("_"):
                    scalars.setdefault(tag, []).append((values["step"], values[tag]))
        elif kind == "config":
            settings |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.config.update}
        elif kind == "run":
            ids.add(record.run.run_id)
    read = EventAccumulator(str(tmp_path / "run")).Reload()
    assert scalars.keys() == set(read.Tags()["scalars"])
    for tag, points in scalars.items():
        assert points == [(event.step, pytest.approx(event.value, rel=1e-6)) for event in read.Scalars(tag)]
    assert pictures == set(read.Tags()["images"])
    assert (settings["Optimizer"], settings["epochs"], settings["batch_size"]) == ("SGD", 2, 12)
    assert ids == {json.loads((tmp_path / "run/loggers.json").read_text())["wandb"]}
