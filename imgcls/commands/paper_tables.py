"""Print the papers' tables of their networks, from ours, beside the published figures."""

from imgcls.config import ScriptParser, run_script
from imgcls.errors import ConfigError, did_you_mean

NAMES = ("lenet5", "alexnet", "vgg", "googlenet", "resnet")


def show() -> None:
    """Print the tables that the command line names, or all of them."""
    parser = ScriptParser(
        "paper_tables",
        "Print the papers' tables of layers, parameters and multiply-adds, counted on our networks, beside the\n"
        "published figures, as Markdown.",
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(NAMES)} (default: all)")
    options = parser.parse()
    for name in options.tables:
        if name not in NAMES:
            raise ConfigError(f"{name} is none of {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    from imgcls.models import paper_tables  # here: it imports torch, which no mistake should wait for

    print(paper_tables(options.tables))


def main() -> None:
    """Run the command line."""
    run_script(show)
