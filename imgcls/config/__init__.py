"""TODO imgcls.config."""

from imgcls.config.command_line import Console, command_line
from imgcls.config.components import build_component, locate
from imgcls.config.compose import compose
from imgcls.config.identity import INCIDENTAL, consequential, flatten, from_flat, run_name
from imgcls.config.quoting import quote_paths
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.config.script_options import add_network, any_names, check_network, parse_options, run_script

__all__ = [
    "INCIDENTAL",
    "Config",
    "Console",
    "EvaluateConfig",
    "add_network",
    "any_names",
    "build_component",
    "check_network",
    "command_line",
    "compose",
    "consequential",
    "flatten",
    "from_flat",
    "locate",
    "parse_options",
    "quote_paths",
    "run_name",
    "run_script",
]
