"""Skipped images: each counts once, whichever rank found it and in whichever life of the run; too many are an error."""

import logging

import numpy as np
import pytest

from imgcls import distributed
from imgcls.data.decoding import BadImageError
from imgcls.data.loading import BadImages
from imgcls.data.sets import ArraySplit


@pytest.fixture
def bad() -> BadImages:
    return BadImages(ArraySplit(np.zeros((300, 1, 1, 1), np.uint8), np.zeros(300), name="set"))


def note(bad: BadImages, *positions: int) -> None:
    for position in positions:
        bad.note(position, BadImageError(f"{position}.jpg", "cannot be decoded: truncated"))


def test_an_image_counts_once_and_is_logged_once(bad, caplog):
    with caplog.at_level(logging.WARNING):
        note(bad, 5, 7, 5, 5)
    assert len(bad) == 2
    assert [record.message for record in caplog.records] == [
        "skipped a bad image: 5.jpg: cannot be decoded: truncated",
        "skipped a bad image: 7.jpg: cannot be decoded: truncated",
    ]


def test_more_than_one_percent_are_an_error(bad):
    note(bad, 0, 1, 2)
    with pytest.raises(
        ValueError, match=r"^4 of 300 images are bad, more than 0\.01 .*max_bad_share.*: 0\.jpg: cannot"
    ):
        note(bad, 3)


def test_those_of_an_earlier_life_of_the_run_count_too(bad):
    bad.add([0, 1, 2])
    note(bad, 1)
    assert bad.share() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"4 of 300 images are bad.*: set\[0\]: was skipped elsewhere"):
        note(bad, 3)


@pytest.mark.parametrize("is_main", [True, False])
def test_what_another_rank_found_counts_and_what_both_found_counts_once(bad, monkeypatch, is_main):
    agreed: list[int] = []
    monkeypatch.setattr(distributed, "agree", lambda flag: agreed.append(flag) or int(len(agreed) == 1))
    monkeypatch.setattr(distributed, "gather", lambda own: [own, [7, 8, 9]] if is_main else None)
    monkeypatch.setattr(distributed, "from_main", lambda value: value if is_main else [5, 7, 8, 9])
    note(bad, 7, 5)
    bad.add([7])  # a rollback's; 5 is still to be logged
    assert bad.share() == [5, 7, 8, 9]
    with pytest.raises(ValueError, match=r"4 of 300 images are bad"):
        bad.check()
    assert bad.share() == [5, 7, 8, 9]
    assert agreed == [1, 0]  # nothing new: nothing but one number is sent
