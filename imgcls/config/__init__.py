"""The configuration: its schema and checks, the command lines that choose it, and the errors about it.

Imports no torch, so that help and every config error come at once. Hydra and OmegaConf are imported only here.
"""

from imgcls.config.command_line import command_line, compose_run
from imgcls.config.components import build_component, locate
from imgcls.config.compose import build_protocol, compose, compose_network, crop_from_words, protocol_names
from imgcls.config.console import NOT_ON_CONSOLE, Console, LogFile
from imgcls.config.from_checkpoint import config_from_checkpoint
from imgcls.config.hydra_internals import Dimension
from imgcls.config.identity import compared, consequential, flatten, from_flat, is_fixed, with_new_settings
from imgcls.config.image_size import ImageSize
from imgcls.config.launchers import launch
from imgcls.config.own_packages import package_names, trust_packages
from imgcls.config.plugs import name_of_crop
from imgcls.config.risks import RISKS, Facts, Risk, find_risks
from imgcls.config.schema import Config, DataConfig, EvaluateConfig, data_of_test
from imgcls.config.script_options import ScriptParser, add_network, any_names, network_of, parse_run_words, run_script
from imgcls.config.set_size import LEFT_OPEN, brought_by_set, fit_to_set, has_open_size
from imgcls.config.settings import is_given, select, set_setting, typed
from imgcls.config.sweep import Job, SearchConfig, Sweep, direction
from imgcls.config.words import without_dashes

__all__ = [
    "LEFT_OPEN",
    "NOT_ON_CONSOLE",
    "RISKS",
    "Config",
    "Console",
    "DataConfig",
    "Dimension",
    "EvaluateConfig",
    "Facts",
    "ImageSize",
    "Job",
    "LogFile",
    "Risk",
    "ScriptParser",
    "SearchConfig",
    "Sweep",
    "add_network",
    "any_names",
    "brought_by_set",
    "build_component",
    "build_protocol",
    "command_line",
    "compared",
    "compose",
    "compose_network",
    "compose_run",
    "config_from_checkpoint",
    "consequential",
    "crop_from_words",
    "data_of_test",
    "direction",
    "find_risks",
    "fit_to_set",
    "flatten",
    "from_flat",
    "has_open_size",
    "is_fixed",
    "is_given",
    "launch",
    "locate",
    "name_of_crop",
    "network_of",
    "package_names",
    "parse_run_words",
    "protocol_names",
    "run_script",
    "select",
    "set_setting",
    "trust_packages",
    "typed",
    "with_new_settings",
    "without_dashes",
]
