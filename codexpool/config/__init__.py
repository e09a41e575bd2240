"""pool.toml: found, read, checked, watched, and edited in place (`codexpool.config.editing`)."""

from codexpool.config.lookup import default_paths, find, places
from codexpool.config.model import (
    Access,
    ConfigError,
    Flag,
    FromAuthJson,
    FromCommand,
    FromEnv,
    FromFile,
    FromKeyring,
    IdentitySpec,
    Inline,
    Intercept,
    MemberSpec,
    Notify,
    PoolConfig,
    PreviousKey,
    Problem,
    Source,
)
from codexpool.config.read import load, parse
from codexpool.config.sources import Resolved, Sources, resolve
from codexpool.config.watch import Watcher
from codexpool.pool.selection import Selection

__all__ = [
    "Access",
    "ConfigError",
    "Flag",
    "FromAuthJson",
    "FromCommand",
    "FromEnv",
    "FromFile",
    "FromKeyring",
    "IdentitySpec",
    "Inline",
    "Intercept",
    "MemberSpec",
    "Notify",
    "PoolConfig",
    "PreviousKey",
    "Problem",
    "Resolved",
    "Selection",
    "Source",
    "Sources",
    "Watcher",
    "default_paths",
    "find",
    "load",
    "parse",
    "places",
    "resolve",
]
