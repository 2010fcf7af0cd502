"""A damaged file: found before the first epoch where it can be, with a remedy in the error, and the remedies work."""

import shutil
from pathlib import Path

import pytest

from imgcls.data.decoding import BadImageError
from imgcls.data.loading import check_files

from .helpers import Make, Train, same

GARBAGE = b"\xff\xd8\xff\xe0garbage"
REMEDY = r"remove or replace the file, or leave such files out: data\.on_bad_image=skip"


@pytest.fixture
def own(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny folder, to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "own"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [cut, lambda file: file.write_bytes(GARBAGE), lambda file: file.write_bytes(b""),
                                    lambda file: (file.unlink(), file.symlink_to("/nowhere"))],
                         ids=["cut off", "garbage", "empty", "link to nothing"])  # fmt: skip
def test_a_bad_validation_file_is_found_before_the_first_step(tiny_config, train, own, cache, damage, tmp_path):
    damage(own / "val/red/03.JPEG")
    steps: list[int] = []
    config = tiny_config(f"data.root={own}", "max_steps=2")
    for _ in range(2):  # what was checked is kept, and found again
        with pytest.raises(BadImageError, match=rf"val/red/03\.JPEG: .*; {REMEDY}"):
            train(config, before=lambda trainer: steps.append(trainer.state.step))
    assert steps == []
    assert not list((tmp_path / "run").glob("*.pt"))
    skipping = tiny_config(f"data.root={own}", "max_steps=2", "data.on_bad_image=skip")
    assert train(skipping)["steps"] == 2


def test_what_was_checked_is_not_checked_again_until_a_file_changes(tiny_config, train, own, cache, caplog):
    config = tiny_config(f"data.root={own}", "max_steps=1")
    caplog.set_level("INFO")
    for name in ("one", "two"):
        train(config, name)
    assert caplog.text.count("checked 15 validation files") == 1
    cut(own / "val/red/03.JPEG")
    with pytest.raises(BadImageError, match="03"):
        train(config, "three")


def test_a_run_that_a_bad_file_ended_goes_on_by_either_remedy(
    tiny_config: Make, train: Train, own: Path, cache: Path
) -> None:
    file = own / "train/red/03.JPEG"
    file.write_bytes(GARBAGE)
    for name in ("skipped", "removed"):
        with pytest.raises(BadImageError, match=rf"train/red/03\.JPEG: .*; {REMEDY}"):
            train(tiny_config(f"data.root={own}"), name)
    skipped = train(tiny_config(f"data.root={own}", "data.on_bad_image=skip"), "skipped")
    whole = train(tiny_config(f"data.root={own}", "data.on_bad_image=skip"), "whole")
    assert same(skipped["weights"], whole["weights"])
    file.unlink()
    removed = train(tiny_config(f"data.root={own}"), "removed")
    assert same(removed["weights"], whole["weights"])


def test_a_file_that_nothing_called_bad_may_not_be_removed(tiny_config, train, own, cache):
    bad, good = own / "train/red/03.JPEG", own / "train/red/04.JPEG"
    bad.write_bytes(GARBAGE)
    with pytest.raises(BadImageError):
        train(tiny_config(f"data.root={own}"))
    bad.unlink()
    good.unlink()
    with pytest.raises(ValueError, match=r"another data set .*training images: 60 there, 59 now"):
        train(tiny_config(f"data.root={own}"))


def test_check_files_passes_over_sets_that_are_no_files(tiny_config):
    class Loader:
        split = object()

    check_files(Loader())  # type: ignore[arg-type]
