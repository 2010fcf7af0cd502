"""Runs that are broken in many ways end as the unbroken one: a short turn of scripts/dev/faults.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = {"kills": 3, "signals": 2, "torn": 2, "full": 1, "images": 2, "reads": 1, "files": 8}

Counts = dict[str, dict[str, Any]]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    file = tmp_path_factory.mktemp("faults") / "counts.json"
    numbers = [f"--{kind}={number}" for kind, number in COUNTS.items()]
    command = [sys.executable, str(ROOT / "scripts/dev/faults.py"), *numbers, f"--json={file}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert file.exists(), done.stdout + done.stderr
    counts = json.loads(file.read_text())
    clean = not any(tally["wrong"] for tally in counts.values())
    assert done.returncode == (0 if clean else 1)
    return counts


def all_equal(tally: dict[str, Any]) -> bool:
    assert tally["wrong"] == []
    return tally["differences"] == 0


def test_a_killed_run_resumed_is_the_unbroken_one(counts: Counts) -> None:
    tally = counts["killed with SIGKILL"]
    assert tally["runs"] == COUNTS["kills"] <= tally["faults"]
    assert all_equal(tally)


def test_a_run_asked_to_stop_loses_no_step_and_tells_the_scheduler(counts: Counts) -> None:
    tally = counts["asked to stop by a signal"]
    assert tally["runs"] == COUNTS["signals"]
    assert tally["lost_steps"] == 0
    assert all_equal(tally)


def test_a_torn_checkpoint_is_noticed_wherever_it_is_torn(counts: Counts) -> None:
    tally = counts["last.pt torn or changed"]
    assert tally["faults"] == COUNTS["torn"]
    assert all_equal(tally)


def test_a_full_disk_ends_clearly_and_leaves_the_old_checkpoint(counts: Counts) -> None:
    tally = counts["disk full"]
    if any("SKIPPED" in note for note in tally["notes"]):
        pytest.skip("mounting a small tmpfs needs root")
    assert tally["runs"] == COUNTS["full"]
    assert all_equal(tally)


def test_a_broken_image_is_named_and_mended_the_run_goes_on(counts: Counts) -> None:
    tally = counts["an image deleted or truncated"]
    assert tally["runs"] == COUNTS["images"]
    assert tally["lost_steps"] == 0
    assert all_equal(tally)


def test_a_read_that_fails_once_is_tried_again_and_one_that_always_fails_is_named(counts: Counts) -> None:
    tally = counts["reads that fail"]
    assert tally["notes"] == {"failed once": 1, "failed for good": 1}
    assert all_equal(tally)


def test_a_mutated_file_is_one_line(counts: Counts) -> None:
    tally = counts["a file of a run mutated"]
    assert tally["faults"] == COUNTS["files"]
    assert tally["wrong"] == []
