"""One line for each error of Hydra and OmegaConf, with the nearest right name."""

from collections.abc import Iterable

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from imgcls.config.hydra_internals import ambiguous_override, refused_override, unknown_key, without_types
from imgcls.errors import did_you_mean, text_of

# Groups of train.py, or words of evaluate.py, that are not a key of the composed config.
MORE_KEYS = ("experiment", "model", "augment")

# What Hydra raises while it composes a config: all of them are mistakes in an override or in conf/.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


def one_line(error: BaseException) -> str:
    """Return an error's text; Hydra's run over several lines and name no alternatives, so they are rewritten."""
    if isinstance(error, YAMLError):  # names the file, the line and the column, each on a line of the text
        return " ".join(str(error).split())
    return _explain(error) if isinstance(error, COMPOSITION_ERRORS) else text_of(error)


def _explain(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        return f"{group}={choice}: there is no such {group}{did_you_mean(choice, options)}; one of {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override that Hydra understands; write key=value, and quote odd characters"
    if override := ambiguous_override(error):
        return f"{override}: several values; to run one job for each, add -m; for a list, write key=[value1,value2]"
    if unknown := unknown_key(error):
        return _unknown_key(*unknown)
    if isinstance(error, ConfigCompositionException) and cause is not None:
        return f"{refused_override(error)}: {str(cause).splitlines()[0]}"
    return without_types(str(error))


def _unknown_key(key: str, siblings: list[str]) -> str:
    if not key:
        return "=: an override without a key; write key=value"
    path = key.split(".")[:-1]
    known = siblings if path else [*siblings, *MORE_KEYS]
    # A setting of the class behind `_target_` may be added with a +; a key of ours that does not exist may not.
    also = f"; to pass it to {'.'.join(path)}._target_ anyway: +{key}=..." if path and "_target_" in siblings else ""
    return no_such_key(key, known) + also


def no_such_key(key: str, known: Iterable[str]) -> str:
    """Say that there is no such key, which is near, and where to find all of them."""
    *path, leaf = key.split(".")
    known = [name for name in known if not name.startswith("_")]
    where = f"{'.'.join(path)} has {', '.join(known)}" if path and known else "--cfg job shows the keys"
    return f"{key}: there is no such key{did_you_mean(leaf, known)}; {where}"
