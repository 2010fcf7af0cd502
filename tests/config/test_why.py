"""`--why` names the file or word that sets a value, through the recipe's chain."""

import subprocess
import sys
from pathlib import Path

import pytest

from imgcls.config import Config
from imgcls.config.command_line import plain_words
from imgcls.config.compose import register
from imgcls.config.why import split_why, why
from imgcls.environment import CONF_DIR


def ask(*words: str) -> list[str]:
    register()
    given, key = split_why(words)
    assert key is not None
    return why(key, plain_words(given, Config), "config", Config).splitlines()


def test_a_recipes_value_is_followed_to_the_word_that_chose_the_model() -> None:
    assert ask("model=vgg16", "--why", "optimizer.lr") == [
        "optimizer.lr=0.01",
        "  0.01  conf/optimizer/alexnet.yaml, chosen by recipe/vgg.yaml, chosen by model/vgg16.yaml, chosen by the "
        "command line",
    ]


def test_what_holds_comes_first_and_below_it_what_would_hold_without_it() -> None:
    value, first, second, third = ask("--why=epochs", "experiment=smoke", "epochs=7")[:4]
    assert (value, first) == ("epochs=7", f"  {'7':<40}  the command line: epochs=7")
    assert second.split() == [
        "${if_equal:${data.name},shapes,1,25}",
        "conf/experiment/smoke.yaml,",
        "chosen",
        "by",
        "the",
        "command",
        "line",
    ]
    assert third.strip().startswith("${first:")


def test_a_value_made_from_others_names_where_those_are_set() -> None:
    lines = ask("--why", "batch_size")
    assert lines[0] == "batch_size=32"
    assert "  data.scale.batch_size=32: conf/data/shapes.yaml" in lines
    assert any(line.startswith("  recipe.batch_size=256: conf/recipe/resnet.yaml") for line in lines)


def test_a_value_that_no_file_sets_is_the_programs() -> None:
    assert ask("--why", "data.mean", "model=lenet5")[-1].endswith(
        "the default of the program (imgcls/config/schema.py)"
    )


def test_a_folder_of_own_configs_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nseed: 5\n")
    lines = ask("--config-dir", str(tmp_path), "experiment=mine", "--why", "seed")
    assert lines[:2] == ["seed=5", f"  5  {tmp_path}/experiment/mine.yaml, chosen by the command line"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--why", "optimizer.lrr"], "optimizer.lrr: there is no such key (did you mean lr?)"),
        (["--why"], "--why has no value"),
        (["--why", "--cfg"], "--why has no value"),
    ],
)
def test_a_wrong_key_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"why has no value|there is no such key") as error:
        ask(*words)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_the_command_only_shows_the_value(tmp_path: Path) -> None:
    command = [sys.executable, str(CONF_DIR.parent / "train.py"), "model=lenet5", "--why", "seed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "seed=0")
    assert not list(tmp_path.iterdir())
