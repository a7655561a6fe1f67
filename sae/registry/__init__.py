"""Kinds and their settings: settings and errors, how a kind is found by its name, and kinds from a user's own file.

A kind of a user's own comes from outside the package in one of three ways: an installed package that declares an entry
point in the group ``sae.<interface>``, a file given to :func:`load_plugin`, or a call of :func:`register`.
"""

from sae.registry.discovery import config_class, configurable, declare_interfaces, kinds, register
from sae.registry.paths import LocalPath, PathOrId, expand_home
from sae.registry.plugins import fingerprint, load_plugin, plugin_files
from sae.registry.settings import (
    KindSettings,
    MissingFileError,
    Settings,
    UserError,
    VersionedSettings,
    checked_settings,
    problem_of,
    same_type,
    unknown,
    wrong_value,
)

__all__ = [
    "KindSettings",
    "LocalPath",
    "MissingFileError",
    "PathOrId",
    "Settings",
    "UserError",
    "VersionedSettings",
    "checked_settings",
    "config_class",
    "configurable",
    "declare_interfaces",
    "expand_home",
    "fingerprint",
    "kinds",
    "load_plugin",
    "plugin_files",
    "problem_of",
    "register",
    "same_type",
    "unknown",
    "wrong_value",
]
