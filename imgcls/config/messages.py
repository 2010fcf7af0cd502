"""TODO imgcls.config.messages."""

import dataclasses
import re
from collections.abc import Iterable

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from imgcls.config.schema import Config
from imgcls.environment import CONF_DIR
from imgcls.errors import did_you_mean


def one_line(error: BaseException) -> str:
    return explain(error) if isinstance(error, HydraException | OmegaConfBaseException) else str(error)


def explain(error: BaseException) -> str:
    """Say in one line what is wrong with an override, with the nearest right name.

    Hydra's own messages run over several lines, name no alternatives, and end in advice that does not fit here.
    """
    text = str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        return f"{group}={choice}: there is no such {group}{did_you_mean(choice, options)}; one of {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override that Hydra understands; write key=value, and quote odd characters"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return (
            f"{match.group(1)}: several values; to run one job for each, add -m; for a list, write key=[value1,value2]"
        )
    if "Could not override ''" in text:
        return "=: an override without a key; write key=value"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1).split("@")[0]
        groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir()]
        path = key.split(".")[:-1]
        parent = getattr(cause, "parent_node", None)
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        if not path:
            known = [f.name for f in dataclasses.fields(Config)] + groups
        prefix = "".join(f"{part}." for part in path)
        # An option of the class behind a plug may be added with a +; an own key that does not exist may not.
        also = f"; to pass it to {prefix}_target_ all the same: +{key}=..." if path and "_target_" in known else ""
        return no_such_key(key, known) + also
    if isinstance(error, ConfigCompositionException) and cause is not None:
        head = text.splitlines()[0].removeprefix("Error merging override ")
        return f"{head}: {str(cause).splitlines()[0]}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line)


def no_such_key(key: str, known: Iterable[str]) -> str:
    *path, leaf = key.split(".")
    # A group that this command does not take, as evaluate.py's model, is no better name for itself.
    known = [name for name in known if not name.startswith("_") and name != leaf]
    where = f"{'.'.join(path)} has {', '.join(known)}" if path and known else "see --help for the keys there are"
    return f"{key}: there is no such key{did_you_mean(leaf, known)}; {where}"
