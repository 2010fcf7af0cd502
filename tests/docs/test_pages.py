"""What the pages say of keys, messages and variables is what the code has."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from config_files import leading_comment, read_blocks
from omegaconf import OmegaConf

import imgcls
from imgcls.config import Config, EvaluateConfig
from imgcls.config.command_line import compose_run
from imgcls.config.settings import settings_of
from imgcls.environment import CONF_DIR

from .pages import FENCE, PAGES, ROOT

DOCS = ROOT / "docs"


@cache
def texts_of_the_code() -> str:
    """Every string of the package, with … for each value that is put into it."""
    texts = []
    for file in Path(imgcls.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(map(str, parts)))
    return "\n".join(texts)


MESSAGES = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one_of_the_code(message: str) -> None:
    pieces = [piece for piece in message.split("…") if len(piece.strip(" :;,.()")) > 2]
    assert pieces
    assert not [piece for piece in pieces if piece not in texts_of_the_code()]


INLINE = re.compile(r"`(\+?[a-z_]+(?:\.[a-z_0-9]+)*=[^`\s]*(?: \+?[a-z_]+(?:\.[a-z_0-9]+)*=[^`\s]*)*)`")
# Keys of training and of tests, by their first part, and those that scripts alone take.
OF_SCRIPTS = {
    "accuracy",
    "any_size",
    "calibration",
    "format",
    "top",
    "out",
    "normalise",
    "softmax",
    "flip",
    "images",
    "opset",
    "class",
    "orientation",
    "columns",
    "where",
    "sort",
    "checksums",
    "mfu",
    "usd_per_hour",
}


def inline_words() -> list[tuple[str, str]]:
    """Each `key=value key=value` in the text of a page, with its page; fences are tested as commands."""
    found = []
    for page in PAGES:
        prose = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        if page.name == "coming-from.md":
            prose = re.sub(r"^\| .*? \| ", "", prose, flags=re.MULTILINE)  # the words of others
        found += [(page.name, words) for words in INLINE.findall(prose)]
    return list(dict.fromkeys(found))


def known_keys() -> set[str]:
    """Every key that there is on a command line: of the schemas, the groups, and below each group's files."""
    keys = {"key"} | {key for kind in (Config, EvaluateConfig) for key, _ in settings_of(kind)}
    keys |= {key.name for file in ("config.yaml", "evaluate.yaml") for key in _keys_of(file)}
    for file in CONF_DIR.glob("*/*.yaml"):
        node = OmegaConf.to_container(OmegaConf.load(file))
        own = "@package _global_" not in file.read_text()
        keys |= set(_dotted(node, f"{file.parent.name}." if own else ""))
        keys.add(file.parent.name)
    return keys | OF_SCRIPTS


def _keys_of(file: str) -> list:
    return [key for block in read_blocks(CONF_DIR / file) for key in block.keys]


def _dotted(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [name for key, value in node.items() for name in (f"{prefix}{key}", *_dotted(value, f"{prefix}{key}."))]


def test_every_key_that_the_text_names_exists() -> None:
    known = known_keys()
    missing = [
        (page, word)
        for page, words in inline_words()
        for word in words.split()
        if not word.startswith(("+", "hydra.")) and word.partition("=")[0] not in known
    ]
    assert not missing, missing


def test_the_check_of_keys_in_the_text_knows_a_key_that_does_not_exist() -> None:
    assert INLINE.findall("as in `optimizer.lrr=3` and `batch_size=8 epochs=2`") == [
        "optimizer.lrr=3",
        "batch_size=8 epochs=2",
    ]
    assert "optimizer.lrr" not in known_keys()
    assert {"optimizer.lr", "augment.batch.mix.mixup", "schedule.patience_epochs", "model.groups"} <= known_keys()


# The last column of a row, where it is words alone.
ROWS = re.findall(r"^\| .* \| `([^`]+)` \|$", (DOCS / "coming-from.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", [row for row in ROWS if INLINE.fullmatch(f"`{row}`")])
def test_the_words_beside_another_trainers_flag_compose(row: str) -> None:
    words = [word for word in row.split() if not re.search(r"=(DIR|FILE|NAME)$", word)]
    if not any(word.startswith("model=") for word in words) and any("model." in word for word in words):
        words.insert(0, "model=torchvision" if "model.weights" in row else "model=timm")
        words.append("model.arch=resnet50")
    if "freeze=backbone" in words:
        words.append("weights=torchvision")
    if any(word.startswith("microbatch=") for word in words) and "batch_size" not in row:
        words.append("batch_size=256")
    compose_run(words)


def test_every_setting_has_a_meaning_on_its_page() -> None:
    from reference import meanings  # here: it imports torch

    of_training, of_tests = meanings(Config, "config.yaml"), meanings(EvaluateConfig, "evaluate.yaml")
    silent = {key for key in of_training if not of_training[key]}
    silent |= {key for key in of_tests if not of_tests[key] and not of_training.get(key)}
    # Groups have other sections, and `network` is no key of a command line.
    assert silent <= {"model", "optimizer", "schedule", "protocol", "augment.batch", "logger", "network"}


def test_every_environment_variable_is_explained() -> None:
    from reference import environment_variables

    page = (DOCS / "configuration.md").read_text()
    assert not [name for name in environment_variables() if f"`{name}`" not in page]


def test_a_pages_pictures_are_small() -> None:
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".jpg", ".svg")]
    assert pictures
    assert all(path.stat().st_size <= 150_000 for path in pictures)


def test_a_page_that_is_missing_or_new_does_not_break_the_navigation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hooks

    for name in ("index", "quickstart", "own-data", "brand-new"):
        (tmp_path / f"{name}.md").touch()
    monkeypatch.setattr(hooks, "DOCS", tmp_path)

    class Settings:
        nav: list = []

    navigation = hooks.on_config(Settings()).nav
    assert navigation == [
        {"Overview": "index.md"},
        "quickstart.md",
        {"Choose": ["own-data.md"]},
        {"Look up": ["brand-new.md"]},
    ]


def test_a_marker_is_filled_as_far_indented_as_it_stands() -> None:
    import hooks

    filled = hooks.fill("a\n\n    <!-- generate: metrics -->\n\nb <!-- generate: none -->")
    assert "\n    | `top1` | top-1 | % | higher | 2 classes |\n" in filled
    assert filled.endswith("b <!-- generate: none -->")
    with pytest.raises(KeyError):
        hooks.fill("<!-- generate: nothing -->")


def test_the_comment_above_a_key_and_the_one_beside_it_are_its_meaning(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "# A file.\ndefaults:\n  - _self_\n\n# Both:\nb: 1 # first\nc: 2 # second\n  # that goes on\n\n"
        "d: # of all\n  # above\n  e: x # beside\nhydra:\n  run: 1\n"
    )
    assert leading_comment(file) == ["A file."]
    both, part = read_blocks(file)
    assert both.intro == "Both:"
    assert [(key.name, key.value, key.meaning) for key in both.keys] == [
        ("b", "1", "first"),
        ("c", "2", "second that goes on"),
    ]
    assert [(key.name, key.meaning) for key in part.keys] == [("d", "of all"), ("d.e", "above beside")]


def python_of_the_pages() -> list[str]:
    return [body for page in PAGES for _, language, body in FENCE.findall(page.read_text()) if language == "python"]


@pytest.mark.parametrize("code", python_of_the_pages())
def test_python_of_the_pages_calls_what_there_is(code: str) -> None:
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func): call for call in calls if ast.unparse(call.func).startswith("imgcls.")}
    assert names
    assert all(name.removeprefix("imgcls.") in imgcls.__all__ for name in names)
    if train := names.get("imgcls.train"):
        compose_run(
            [word.value for word in train.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        )
