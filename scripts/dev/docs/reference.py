"""What the pages show of the program: settings, options, recipes, protocols, metrics, codes and help, as Markdown."""

import dataclasses
import functools
import importlib
import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from config_files import Key, before_facts, body, files_of, leading_comment, read_blocks, recipe_facts

import imgcls
from imgcls import errors
from imgcls.commands import COMMANDS
from imgcls.config import RISKS, ImageSize, build_protocol, protocol_names
from imgcls.config.settings import Rule, settings_of
from imgcls.data.augment import CenterCrop
from imgcls.environment import CONF_DIR
from imgcls.evaluation import published_results
from imgcls.metrics import METRICS

ROOT = CONF_DIR.parent
# Groups in the order in which a user meets them, and what one chooses.
GROUPS = {
    "model": "The network. It brings its paper's recipe, and LeNet-5 its paper's kind of images.",
    "recipe": "A paper's training procedure: an optimizer, a schedule, augmentation, and the size of the run.",
    "data": "The images.",
    "augment": "What happens to a training image, and the crop that validation takes.",
    "optimizer": "Any of `torch.optim`. A setting that its file lacks is added by `+`: `+optimizer.maximize=true`.",
    "schedule": "The learning rate over the run.",
    "experiment": "Choices and settings under one name; none by default.",
    "logger": "Where numbers and pictures go besides `metrics.csv`: one, several as `[tensorboard,wandb]`, or none.",
    "protocol": "Of a test: the views of each image. See [test protocols](protocols.md).",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key of the schema, with its type and its rule."""

    type: str
    rule: Rule


def settings(kind: type) -> dict[str, Setting]:
    """Return each setting of a config class by its dotted key."""
    types = dict(_types(kind))
    return {key: Setting(types[key], rule) for key, rule in settings_of(kind)}


def _types(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _types(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _type_name(field.type)


def _type_name(kind: Any) -> str:
    names = {int: "whole number", float: "number", str: "text", bool: "true, false", list[float]: "list of numbers"}
    if kind in names:
        return names[kind]
    parts = [part for part in get_args(kind) if part is not type(None)]
    return f"{names[parts[0]]} or null" if len(parts) == 1 and parts[0] in names else ""


def keys_table(kind: type, file: str) -> str:
    """Return the settings of conf/`file`, block by block, as tables of key, default, values and meaning."""
    known, parts = settings(kind), []
    for block in read_blocks(CONF_DIR / file):
        rows = [key for key in block.keys if key.value and not key.name.endswith("._target_")]
        parents = {key.name: key.meaning for key in block.keys if not key.value}
        if block.intro:
            parts.append(block.intro)
        lines = ["| key | default | takes | meaning |", "|---|---|---|---|"]
        lines += [_key_row(key, known.get(key.name), parents) for key in rows]
        parts.append(_keys(lines))
    return "\n\n".join(parts)


def _keys(lines: list[str]) -> str:
    """Return a table of keys, which a narrow screen shows as a list."""
    return "\n".join(['<div class="keys" markdown>', "", *lines, "", "</div>"])


def meanings(kind: type, file: str) -> dict[str, str]:
    """Return what conf/`file` and the schema say of each setting; empty where neither says anything."""
    known: dict[str, str] = {}
    for block in read_blocks(CONF_DIR / file):
        parents = {key.name: key.meaning for key in block.keys if not key.value}
        known |= {key.name: _meaning(key, parents) or block.intro for key in block.keys}
    for prefix, part in _parts(kind):
        known |= {f"{prefix}{name}": text for name, text in arguments(part).items()}
    # Groups, and what conf/augment has below `batch`, have other pages.
    return {key: known.get(key, "") for key in settings(kind)}


def _parts(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    yield prefix, kind
    for field in dataclasses.fields(kind):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from _parts(field.type, f"{prefix}{field.name}.")


def _key_row(key: Key, setting: Setting | None, parents: dict[str, str]) -> str:
    default = "of the recipe or the data" if "${first" in key.value else f"`{key.value}`"
    takes = _takes(setting) if setting else "number"
    kept = " *" if setting and setting.rule.incidental else ""
    return f"| `{key.name}`{kept} | {default} | {takes} | {_cell(_meaning(key, parents))} |"


def _meaning(key: Key, parents: dict[str, str]) -> str:
    return key.meaning or parents.get(key.name.rpartition(".")[0], "")


def _takes(setting: Setting) -> str:
    rule = setting.rule
    if rule.one_of:
        return ", ".join(f"`{value}`" for value in rule.one_of)
    bounds = {"≥": rule.least, ">": rule.above, "≤": rule.most, "<": rule.below}
    words = [f"{sign}\u00a0{bound:,}" for sign, bound in bounds.items() if bound not in (None, math.inf)]
    return f"{setting.type} {', '.join(words)}".strip()


def schema_table(kind: type, prefix: str) -> str:
    """Return the settings of one class of the schema, as it explains them, with the type of each."""
    known, explained = settings(kind), arguments(dict(_parts(kind))[f"{prefix}."])
    lines = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for name, meaning in explained.items():
        setting = known.get(f"{prefix}.{name}")
        lines.append(f"| `{prefix}.{name}` | | {_takes(setting) if setting else ''} | {_cell(meaning)} |")
    return _keys(lines)


def arguments(kind: object) -> dict[str, str]:
    """Return the names and texts below `Args:` in a docstring of Google's style."""
    _, found, rest = (inspect.getdoc(kind) or "").partition("Args:\n")
    known: dict[str, str] = {}
    for line in rest.splitlines() if found else []:
        if line and not line.startswith(" "):
            break
        if match := re.match(r"^    (\w+(?:, \w+)*): (.*)$", line):
            last = match[1]
            known[last] = match[2]
        elif line.startswith("        ") and known:
            known[last] += f" {line.strip()}"
    return {name: text for names, text in known.items() for name in names.split(", ")}


def group_options(group: str) -> str:
    """Return each file of a group as a section that opens: what its comment says, and its settings."""
    parts = [f"{GROUPS[group]} {_defaults(group)}".strip(), ""]
    for path in files_of(group):
        text = " ".join(line for line in before_facts(leading_comment(path)))
        parts += [f'??? note "`{group}={path.stem}`{_first_words(text)}"', "", *_indented(_links(text)), ""]
        facts = recipe_facts(path)
        if facts:
            parts += ["    See [recipes](recipes.md) for its command, cost and expected score.", ""]
        parts += [*_settings_file(path), ""]
        for target in re.findall(r"_target_: (imgcls[\w.]+)", path.read_text()):
            parts += _settings_of_class(target)
    return "\n".join(parts)


def _defaults(group: str) -> str:
    chosen = re.search(rf"^  - {group}: (\S+)$", (CONF_DIR / "config.yaml").read_text(), re.MULTILINE)
    if chosen and group in ("recipe", "augment", "optimizer", "schedule"):
        return "A recipe chooses it." if group != "recipe" else "A model chooses it."
    return f"Default: `{chosen[1]}`." if chosen and chosen[1] != "null" else ""


def _settings_of_class(target: str) -> list[str]:
    module, _, name = target.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    explained = arguments(kind)
    return [f"    - `{key}`: {text}" for key, text in explained.items()] + [""] if explained else []


def _first_words(text: str) -> str:
    first = re.split(r"(?<=[^0-9A-Z]{2})[.:;] ", text.replace('"', "”"))[0].split(", “")[0]
    return f" {first[:70].rstrip(' ,.(')}{'…' if len(first) > 70 else ''}" if first else ""


def _settings_file(path: Path) -> list[str]:
    return _indented(f"```yaml\n{body(path)}\n```")


def _indented(text: str) -> list[str]:
    return [f"    {line}".rstrip() for line in text.splitlines()]


def _links(text: str) -> str:
    return re.sub(r"(?<![<(])https://\S+[^\s.,)]", lambda match: f"<{match[0]}>", text)


def recipes() -> str:
    """Return a section for each recipe and experiment: source, command, cost, expected and published scores."""
    parts = []
    for group in ("recipe", "experiment"):
        for path in files_of(group):
            facts = recipe_facts(path)
            parts += [f"## {group}={path.stem}", "", " ".join(before_facts(leading_comment(path))).strip(), ""]
            parts += ["```bash", *facts["command"], "```", ""]
            parts += [f"**Cost**: {' '.join(facts['cost'])}.", "", f"**Expected**: {' '.join(facts['expected'])}.", ""]
            parts += ['??? note "Its settings"', "", *_settings_file(path), ""]
    return "\n".join(parts)


def published_table(protocol: str | None = None) -> str:
    """Return the published results, of one protocol or of all, as a table."""
    lines = ["| network | protocol | top-1 | top-5 | source |", "|---|---|---:|---:|---|"]
    for row in published_results():
        if protocol in (None, row.protocol):
            top1, top5 = (_percent(row.scores[name]) for name in ("top1", "top5"))
            lines.append(f"| {row.model} | `{row.protocol}` | {top1} | {top5} | {row.source} |")
    return "\n".join(lines)


def _percent(score: float | None) -> str:
    return "" if score is None else f"{score:.2f} %"


def protocols() -> str:
    """Return a section for each test protocol: its source, its views, its settings, what is published by it."""
    parts = []
    for name in protocol_names(first="center"):
        path = CONF_DIR / "protocol" / f"{name}.yaml"
        protocol = build_protocol(name)
        views = protocol.views(375, 500, image_size=ImageSize.of(224), crop=CenterCrop())
        shapes = ", ".join(dict.fromkeys(f"{view.rows}×{view.columns}" for view in views))
        count = len(views) * (2 if protocol.flip else 1)
        parts += [f"## protocol={name}", "", " ".join(leading_comment(path)), ""]
        parts += [
            f"A photo of 375×500 pixels is shown {'once' if count == 1 else f'{count} times'}"
            f"{', mirror images included' if protocol.flip else ''}, as {shapes} pixels; "
            f"the mean is of the {protocol.average}.",
            "",
            "```yaml",
            body(path),
            "```",
            "",
        ]
        parts += [f"- `protocol.{key}`: {text}" for key, text in arguments(type(protocol)).items()]
        if any(row.protocol == name for row in published_results()):
            parts += ["", '??? note "Published by it"', "", *_indented(published_table(name))]
        parts.append("")
    return "\n".join(parts)


def metrics() -> str:
    """Return the table of METRICS."""
    lines = ["| name | in tables | unit | better | needs |", "|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        lines.append(f"| `{name}` | {metric.title} | {metric.unit} | {better} | {metric.min_classes} classes |")
    return "\n".join(lines)


def exit_codes() -> str:
    """Return the table of exit codes, with what errors.py says beside each."""
    lines = ["| code | name | meaning |", "|---:|---|---|", "| 0 | | finished |"]
    source = inspect.getsource(errors)
    for name, code, meaning in re.findall(r"^(EXIT_\w+) = (\d+)  # (.*)$", source, re.MULTILINE):
        lines.append(f"| {code} | `{name}` | {_cell(meaning)} |")
    return "\n".join(lines)


def environment_variables() -> list[str]:
    """Return the IMGCLS_ variables that the package and its setup read."""
    files = [*Path(imgcls.__file__).parent.rglob("*.py"), ROOT / "setup.py"]
    names = {name for file in files for name in re.findall(r"\bIMGCLS_[A-Z_]+\b", file.read_text())}
    return sorted(names - {"IMGCLS_NATIVE_VERSION"})  # a macro of the C source


@functools.cache
def help_of(command: str) -> str:
    """Return what a command prints for --help in a checkout."""
    script = "train.py" if command == "train" else f"scripts/{command}.py"
    words = [script] if (ROOT / script).exists() else ["-m", "imgcls", command]
    environment = {**os.environ, "COLUMNS": "100"}
    command_line = [sys.executable, *words, "--help"]
    done = subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


def command_helps() -> str:
    """Return a section for each command with its help."""
    parts = []
    for name, what in COMMANDS.items():
        parts += [f"## {name}", "", f"{what[0].upper()}{what[1:]}.", "", "```text", help_of(name), "```", ""]
    return "\n".join(parts)


def data_table() -> str:
    """Return the table of data sets: what its comment says, classes, and the size of a run that it brings."""
    lines = ["| choose by | what | classes | brings |", "|---|---|---:|---|"]
    for path in files_of("data"):
        text = path.read_text()
        classes = re.search(r"^num_classes: (\d+)", text, re.MULTILINE)
        scale = dict(re.findall(r"^  (image_size|batch_size|epochs): (\d+)", text, re.MULTILINE))
        units = {"image_size": "{} px", "batch_size": "batch {}", "epochs": "{} epochs"}
        brings = ", ".join(unit.format(scale[key]) for key, unit in units.items() if scale.get(key, "0") != "0")
        by_images = "batch and epochs by the number of images" if scale.get("batch_size") == "0" else ""
        what, number = _links(" ".join(leading_comment(path))), classes[1] if classes else "counted"
        lines.append(f"| `data={path.stem}` | {what} | {number} | {brings or by_images} |")
    return "\n".join(lines)


def rooms() -> str:
    """Return the order of imports among the rooms, as CONTRIBUTING.md has it."""
    block = re.search(r"(?:^    .*\n)+", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert block
    return "\n".join(["```text", *(line.strip() for line in block[0].splitlines()), "```"])


def to_add() -> str:
    """Return which files to touch for each addition, as CONTRIBUTING.md has it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return f"## To add\n{text.partition('## Where things go')[2].partition('## ')[0]}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def risks() -> str:
    """Return the warnings about settings that are known to fail, by the names that silence them."""
    lines = ["| name | warns of |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {_cell(inspect.getdoc(find) or '')} |" for name, find in RISKS.items())])
