"""Checkpoints: whole or not at all, checked, never code."""

import errno
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from imgcls.checkpoints import (
    CheckpointError,
    CheckpointFile,
    CheckpointWriter,
    list_differences,
    load_checkpoint,
    load_latest_checkpoint,
    save_checkpoint,
)
from imgcls.runs import DiskError, explain_disk_errors


def content(value: float = 1.0) -> dict:
    return {
        "model": {"w": torch.full((50, 50), value), "n": torch.tensor(3)},
        "state": {"step": 7, "best": -float("inf")},
    }


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    tree = content() | {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "list": [1, "a", None, (2, 3.5)],
        "empty": torch.zeros(0),
    }
    save_checkpoint(tree, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded["model"]["w"], tree["model"]["w"])
    assert loaded["list"] == tree["list"]
    assert loaded["state"] == tree["state"]
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]


def nested() -> list:
    """A list that unfolds to 10^30 values, in some hundred bytes of pickle."""
    tree: list = [0] * 10
    for _ in range(30):
        tree = [tree] * 10
    return tree


def compressed(file: Path) -> None:
    """Write the same archive with its entries compressed, and 64 MB of zeros."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
        archive.writestr(f"{next(iter(entries)).partition('/')[0]}/data/9", bytes(1 << 26))


@pytest.mark.parametrize("kind", ["nested", "expanded", "many names", "compressed", "meta"])
def test_a_small_file_that_unfolds_to_something_huge_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    large = torch.ones(1 << 20)
    more: dict[str, Any] = {
        "nested": nested(),
        "expanded": torch.zeros(1).expand(10**12),
        "many names": [large] * 1000,
        "compressed": 0,
        "meta": torch.zeros(10**12, device="meta"),
    }
    file = tmp_path / "last.pt"
    torch.save({"format": 2, "checksum": 0, "model": {"a": more[kind]}}, file)
    if kind == "compressed":
        compressed(file)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="unfolds to"):
        load_checkpoint(file)
    assert time.monotonic() - started < 5


def test_weights_that_layers_share_are_loaded_under_all_their_names(tmp_path: Path) -> None:
    shared = torch.ones(1000)
    tree = {"model": {f"layer{k}": shared for k in range(24)}}
    save_checkpoint(tree, tmp_path / "last.pt")
    assert len(load_checkpoint(tmp_path / "last.pt")["model"]) == 24


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for value in (1.0, 2.0):
        save_checkpoint(content(value), last, keep_previous=previous)
    assert load_checkpoint(last)["model"]["w"][0, 0] == 2
    assert load_checkpoint(previous)["model"]["w"][0, 0] == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(content(), path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(content(2.0), path)
    assert load_checkpoint(path)["model"]["w"][0, 0] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_torn_file_is_noticed_and_the_one_before_is_used(tmp_path: Path, share: float, caplog) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(content(1.0), previous)
    save_checkpoint(content(2.0), last)
    whole = last.read_bytes()
    last.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        load_checkpoint(last)
    loaded = load_latest_checkpoint([last, previous])
    assert loaded is not None
    assert loaded["model"]["w"][0, 0] == 1
    assert "resuming from" in caplog.text


def test_a_changed_byte_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(content(1.0), path)
    raw = bytearray(path.read_bytes())
    place = raw.find(torch.full((100,), 1.0).numpy().tobytes())
    raw[place + 41] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_only_damaged_files_end_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="overwrite=true"):
        load_latest_checkpoint([tmp_path / "last.pt", tmp_path / "previous.pt"])
    assert load_latest_checkpoint([tmp_path / "none.pt"]) is None


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, writer: str) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    evil = {"model": {}, "checksum": 0, "format": 1, "x": Malicious(proof)}
    if writer == "torch":
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        load_checkpoint(path)
    assert not proof.exists()


def test_another_programs_file_is_refused_with_a_word(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of imgcls"):
        load_checkpoint(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_bytes_of_any_kind_are_a_damaged_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    draws = random.Random(0)
    for _ in range(300):
        path.write_bytes(draws.randbytes(draws.randrange(1, 200)))
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)


def test_a_damaged_file_is_moved_away_and_never_takes_the_place_of_the_whole_one(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(content(1.0), previous)
    last.write_bytes(b"torn")
    load_latest_checkpoint([last, previous])
    assert (tmp_path / "last.pt.damaged").read_bytes() == b"torn"
    save_checkpoint(content(2.0), last, keep_previous=previous)
    assert load_checkpoint(previous)["model"]["w"][0, 0] == 1


def waiting_writer() -> tuple[threading.Event, CheckpointWriter]:
    """Return a writer that waits for the returned event before it writes a file."""
    go = threading.Event()

    def save(*arguments: Any, **more: Any) -> None:
        assert go.wait(60)
        save_checkpoint(*arguments, **more)

    return go, CheckpointWriter(save)


def test_later_steps_do_not_change_what_is_written_in_the_background(tmp_path: Path) -> None:
    (go, writer), tree = waiting_writer(), content(1.0)
    writer.write(CheckpointFile(tree, tmp_path / "last.pt"))
    assert writer.busy
    tree["model"]["w"].fill_(7.0)  # the next optimizer step
    tree["state"]["step"] = 8
    go.set()
    writer.wait()
    assert not writer.busy
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded["model"]["w"][0, 0] == 1
    assert loaded["state"]["step"] == 7


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_a_checkpoint_in_the_background_starts_no_team_of_threads(tmp_path: Path) -> None:
    # Beside the team of the training: GNU's OpenMP would let neither wait actively, and slow down every later step.
    script = """
import os, sys, threading
from pathlib import Path
import torch
from imgcls.checkpoints import save_checkpoint

torch.set_num_threads(2)
weights, counts = torch.randn(256, 256, 3, 3).to(memory_format=torch.channels_last), []
half = weights.bfloat16()

def count():
    counts.append(len(os.listdir("/proc/self/task")))

def write():
    count()
    save_checkpoint({"weights": weights, "half": half}, Path(sys.argv[1]))
    count()

writer = threading.Thread(target=write)
writer.start()
writer.join()
print(*counts)
"""
    words = [sys.executable, "-c", script, str(tmp_path / "last.pt")]
    before, after = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert before == after


def test_a_second_write_waits_for_the_first(tmp_path: Path) -> None:
    go, writer = waiting_writer()
    files = [CheckpointFile(content(value), tmp_path / "last.pt", tmp_path / "previous.pt") for value in (1.0, 2.0)]
    writer.write(files[0])
    second = threading.Thread(target=writer.write, args=(files[1],))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go.set()
    second.join(60)
    writer.wait()
    assert load_checkpoint(tmp_path / "last.pt")["model"]["w"][0, 0] == 2
    assert load_checkpoint(tmp_path / "previous.pt")["model"]["w"][0, 0] == 1


def test_an_error_of_the_background_surfaces_at_the_next_write_with_the_file_and_the_reason(tmp_path: Path) -> None:
    writer = CheckpointWriter()
    for follow_up in (writer.wait, lambda: writer.write(CheckpointFile(content(), tmp_path / "other.pt"))):
        writer.write(CheckpointFile(content(), tmp_path / "no such folder/last.pt"))
        with pytest.raises(OSError, match=r"No such file or directory: '.*no such folder/last\.pt'"):
            follow_up()
    writer.wait()


def test_a_full_disk_is_explained_with_the_way_out() -> None:
    words = r"runs/a: No space .* run the same command again"
    with pytest.raises(DiskError, match=words), explain_disk_errors(Path("runs/a")):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), explain_disk_errors(Path("runs/a")):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_differences_are_named_to_the_last_bit() -> None:
    one, other = content(), content()
    assert list_differences(one, other) == []
    other["model"]["w"][3, 3] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    other["state"]["more"] = 1
    one["list"], other["list"] = [1, [2, -0.0]], [1, [2, 0.0]]
    assert list_differences(one, other) == ["model.w", "state.more", "list.1.1"]


def test_a_read_that_fails_says_nothing_about_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"step": 1}, path)
    load, failures = torch.load, [OSError(5, "Input/output error")]

    def failing(*arguments, **more):
        if failures:
            raise failures.pop()
        return load(*arguments, **more)

    monkeypatch.setattr(torch, "load", failing)
    assert load_latest_checkpoint([path]) == {"step": 1}  # once: tried again
    failures += [OSError(5, "Input/output error")] * 2
    with pytest.raises(OSError, match=r"Input/output error: .*last\.pt"):
        load_latest_checkpoint([path])
    assert path.exists()


def test_errors_never_repeat_torchs_advice_to_run_code(tmp_path: Path) -> None:
    for number, content in enumerate(({"a": Path}, os.mkdir, {"checksum": 1, "x": {os.system}})):
        file = tmp_path / f"{number}.pt"
        torch.save(content, file)
        (tmp_path / f"{number}.bytes").write_bytes(file.read_bytes()[: -100 * number - 1])
        (tmp_path / f"{number}.text").write_bytes(b"\x80\x02}q\x00(X\x01" + bytes([number]))
        (tmp_path / f"{number}.pickle").write_bytes(pickle.dumps(Fraction(1, 3)))
    for file in tmp_path.iterdir():
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(file)
        for word in ("weights_only", "arbitrary", "two options", "safe_globals", "trust", "\n"):
            assert word not in str(caught.value)
