"""The effect of a setting is the mean difference of runs that are alike in all else."""

from pathlib import Path

import pytest

from imgcls.runs import Effect, RunRow, compare_rows, render


def rows(*runs: tuple[float, dict[str, object]]) -> list[RunRow]:
    return [
        RunRow(Path(str(number)), {"data.name": "digits", **config}, "finished", scores={"top1": top1})
        for number, (top1, config) in enumerate(runs)
    ]


def effects(*runs: tuple[float, dict[str, object]]) -> dict[tuple[object, object, object], Effect]:
    (group,) = compare_rows(rows(*runs))
    return {(effect.key, effect.before, effect.after): effect for effect in group.effects}


def test_two_settings_in_a_grid_have_each_its_own_effect_with_students_interval() -> None:
    # top-1 = 50 + 10 if lr is 0.2, + 4 if there is smoothing, + 1 or - 1 by the two together.
    found = effects(
        (50, {"lr": 0.1, "smooth": 0}),
        (54, {"lr": 0.1, "smooth": 1}),
        (61, {"lr": 0.2, "smooth": 0}),
        (63, {"lr": 0.2, "smooth": 1}),
    )
    lr, smooth = found["lr", 0.1, 0.2], found["smooth", 0, 1]
    assert (lr.mean, lr.num_pairs, lr.also) == (10, 2, ())
    assert (smooth.mean, smooth.num_pairs) == (3, 2)
    # One degree of freedom: 12.7062 standard errors, which are 1 of the differences 11 and 9.
    assert lr.interval is not None
    assert lr.interval.half_width == pytest.approx(12.7062, abs=1e-4)


def test_runs_that_differ_in_more_are_no_pair_and_one_pair_has_no_interval() -> None:
    found = effects((50, {"lr": 1, "wd": 1}), (60, {"lr": 2, "wd": 1}), (90, {"lr": 2, "wd": 3}))
    assert found["lr", 2, 1].mean == -10
    assert found["wd", 1, 3].mean == 30
    assert found["wd", 1, 3].interval is None
    assert found["wd", 1, 3].num_pairs == 1


def test_what_a_setting_decides_is_named_beside_its_effect() -> None:
    found = effects(
        (50, {"recipe": "a", "lr": 1, "wd": 1}),
        (60, {"recipe": "b", "lr": 2, "wd": 1}),
        (70, {"recipe": "c", "lr": 2, "wd": 1}),
        (51, {"recipe": "a", "lr": 1, "wd": 2}),
    )
    assert found["recipe", "a", "b"].also == ("lr",)
    assert found["recipe", "a", "c"].mean == 20
    assert found["wd", 1, 2].mean == 1
    assert not [key for key in found if key[0] == "lr"]  # no two runs have one recipe and two lr


def test_runs_are_paired_by_seed_or_else_by_the_means_over_their_seeds() -> None:
    same = effects(*((50 + seed + 2 * lr, {"lr": lr, "seed": seed}) for lr in (0, 1) for seed in (1, 2, 3)))
    assert (same["lr", 0, 1].mean, same["lr", 0, 1].num_pairs, same["lr", 0, 1].over_seeds) == (2, 3, False)
    other = effects(
        (50, {"lr": 1, "seed": 1}), (52, {"lr": 1, "seed": 2}), (60, {"lr": 2, "seed": 3}), (62, {"lr": 2, "seed": 4})
    )
    assert (other["lr", 1, 2].mean, other["lr", 1, 2].num_pairs, other["lr", 1, 2].over_seeds) == (10, 1, True)
    assert not [key for key in other if key[0] == "seed"]


def test_effects_are_lines_below_the_table_and_in_json() -> None:
    runs = rows(
        (50, {"opt._target_": "torch.optim.SGD", "lr": 1}),
        (55, {"opt._target_": "torch.optim.AdamW", "lr": 1}),
        (52, {"opt._target_": "torch.optim.SGD", "lr": 2}),
    )
    text = render(compare_rows(runs))
    assert "effect of opt SGD -> AdamW: top-1 +5.00 points (1 pair, no interval)" in text
    assert '"pairs": 1' in render(compare_rows(runs), "json")
    assert "effect" not in render(compare_rows(runs[:2]))  # of two runs the table says it all
