"""Words of a command line: options in any spelling, and paths without quotes."""

from pathlib import Path

import pytest

from imgcls.config import EvaluateConfig
from imgcls.config.command_line import plain_words
from imgcls.config.hydra_internals import parse_overrides
from imgcls.config.schema import Config
from imgcls.config.words import is_network_word
from imgcls.errors import ConfigError


@pytest.mark.parametrize(
    "words, plain",
    [
        (["--max-steps", "3", "seed=1"], ["max_steps=3", "seed=1"]),
        (["--optimizer.lr=0.1", "--model", "vgg16"], ["optimizer.lr=0.1", "model=vgg16"]),
        (
            ["--compile", "--deterministic", "false", "--channels-last=false"],
            ["compile=true", "deterministic=false", "channels_last=false"],
        ),
        (["-m", "seed=1,2", "--cfg", "job"], ["-m", "seed=1,2", "--cfg", "job"]),
        (["--checkpoint.keep", "2"], ["checkpoint.keep=2"]),
    ],
)
def test_a_setting_may_have_dashes(words: list[str], plain: list[str]) -> None:
    assert plain_words(words, Config) == plain


@pytest.mark.parametrize(
    "word, error",
    [
        ("--max-stepps", r"--max-stepps: there is no such option \(did you mean max_steps\?\)"),
        ("--max-steps", "--max-steps has no value; write max_steps=..., or --max-steps ..."),
    ],
)
def test_an_option_that_is_unknown_or_without_a_value_is_refused(word: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        plain_words([word], Config)


@pytest.mark.parametrize(
    "word, value",
    [
        (
            "checkpoint=runs/x/batch_size-16+optimizer.lr-1e-05/best.pt",
            "runs/x/batch_size-16+optimizer.lr-1e-05/best.pt",
        ),
        ("checkpoint=[x/+a-1+b--2/best.pt,b.pt]", ["x/+a-1+b--2/best.pt", "b.pt"]),
        ("checkpoint=my runs=1,2/best.pt", "my runs=1,2/best.pt"),
        ("checkpoint=a,b.pt", "a,b.pt"),
        ("checkpoint='a=1.pt'", "a=1.pt"),
        ("weights=https://host/w(1).pt?x=1&y=2", "https://host/w(1).pt?x=1&y=2"),
        ("weights=null", None),
        ("data.root=~/images=all", "~/images=all"),
        ("data.root=/ö/x's \\", "/ö/x's \\"),
        ("real=it's\\'.json", "it's\\'.json"),
        ("out={a}", "{a}"),
    ],
)
def test_paths_need_no_quotes(word: str, value: object) -> None:
    (override,) = parse_overrides(plain_words([word], EvaluateConfig))
    assert override.value() == value


def test_a_pattern_that_the_shell_wrote_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.root=/a-0\.tar: data\.root is given 2 times; put a pattern"):
        plain_words(["data=imagenet", "data.root=/a-0.tar", "data.root=/a-1.tar"], Config)
    pattern = "data.root=/a/{train-{0..9},val-{0..9}}.tar"
    (override,) = parse_overrides(plain_words([pattern], Config))
    assert override.value() == pattern.removeprefix("data.root=")


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.lr=["],
        ["model=a=b"],
        ["checkpoint='a"],
        ["data.root=${oc.env:A,b=c"],
        ["-m", "data.root=/a,/b"],
        ["-m", "data.root=/a=1,/b=2"],
    ],
)
def test_hydra_judges_what_may_be_more_than_a_path(words: list[str]) -> None:
    assert plain_words(words, Config) == words


def test_the_words_of_a_network_are_those_of_train() -> None:
    for word in ("model=vgg16", "model.depth=18", "+model.x=1", "augment=none", "augment.crop.x=1", "data.mean=[0.5]"):
        assert is_network_word(word)
    for word in ("data=folder", "data.root=x", "models=1", "checkpoint=model", "weights=torchvision"):
        assert not is_network_word(word)


def test_a_photo_with_a_equals_sign_in_its_name_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgcls.config import ScriptParser

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.png").touch()
    parser = ScriptParser("predict", "Test.")
    parser.add_argument("files", nargs="*")
    assert parser.parse(["a=b.png", "x/y=1.png", "a=*.png"]).files == ["a=b.png", "x/y=1.png", "a=*.png"]
    with pytest.raises(ConfigError, match=r"^a: there is no such option; this takes no options$"):
        parser.parse(["a=c.png"])
