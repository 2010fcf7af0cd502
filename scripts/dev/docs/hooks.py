"""MkDocs' hooks: fill the pages with what the code knows, and order the pages that there are.

A page asks for a part by `<!-- generate: NAME WORDS -->`, alone on a line.
"""

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from network_pages import drawing, family_table, layer_table
from reference import (
    command_helps,
    data_table,
    exit_codes,
    group_options,
    keys_table,
    metrics,
    protocols,
    published_table,
    recipes,
    risks,
    rooms,
    schema_table,
    to_add,
)

from imgcls.config import Config, EvaluateConfig
from imgcls.models import paper_table

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
MARKER = re.compile(r"^( *)<!-- generate: (\S+)(?: (.*?))? -->$", re.MULTILINE)

# The order of the pages; those that are missing are left out, those that are not named come last.
NAVIGATION = {
    "": ["index", "quickstart", "doctor"],
    "Choose": ["configuration", "networks", "recipes", "protocols", "data", "own-data", "imagenet", "weights"],
    "Run": ["machines", "sweeps", "distributed", "continue", "resume", "loggers", "smoke", "test", "results", "cli"],
    "Extend": ["extend", "library", "coming-from"],
    "Look up": ["troubleshooting", "code", "checks", "reading-images"],
}


def readme() -> str:
    """Return README.md as the first page: its links into docs/ are links of the site."""
    text = (ROOT / "README.md").read_text()
    files = re.compile(r"\]\((?!https?:|docs/|#)([^)]+)\)")
    if missing := files.search(text):
        raise ValueError(f"README.md links to {missing[1]}, which is not in docs/: the site cannot show it")
    return text.replace("](docs/", "](").replace('src="docs/', 'src="')


PARTS: dict[str, Callable[..., str]] = {
    "readme": readme,
    "keys-of-train": lambda: keys_table(Config, "config.yaml"),
    "keys-of-evaluate": lambda: keys_table(EvaluateConfig, "evaluate.yaml"),
    "keys-of-schema": lambda part: schema_table(Config, part),
    "group": group_options,
    "recipes": recipes,
    "published": published_table,
    "protocols": protocols,
    "metrics": metrics,
    "exit-codes": exit_codes,
    "help": command_helps,
    "data-sets": data_table,
    "risks": risks,
    "rooms": rooms,
    "to-add": to_add,
    "family": family_table,
    "layers": layer_table,
    "drawing": drawing,
    "paper-table": paper_table,
}


def fill(markdown: str) -> str:
    """Return a page with each part that it asks for, as far indented as the marker.

    Raises:
        KeyError: there is no such part.
    """

    def part(match: re.Match[str]) -> str:
        text = PARTS[match[2]](*([match[3]] if match[3] else []))
        return indent(text, match[1])

    return MARKER.sub(part, markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return fill(markdown)


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    there = {path.stem: path.name for path in sorted(DOCS.glob("*.md"))}
    navigation: list[Any] = []
    for title, names in NAVIGATION.items():
        pages = [there.pop(name) for name in names if name in there]
        if title == "Look up":
            pages += there.values()  # pages that no part names
        if not title:
            navigation += [{"Overview": page} if page == "index.md" else page for page in pages]
        elif pages:
            navigation.append({title: pages})
    config.nav = navigation
    return config
