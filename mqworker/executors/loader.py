"""Find the user's registry by its ``module:attribute``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from mqworker.errors import ConfigError
from mqworker.executors.registry import ExecutorRegistry
from mqworker.lifecycle import describe_error


def load_registry(path: str) -> ExecutorRegistry:
    """The :class:`ExecutorRegistry` at ``module:attribute``, looked for in the working directory first.

    Raises :class:`ConfigError` with what is wrong; an error inside the user's module is its cause.
    """
    name, colon, attribute = path.partition(":")
    if not colon or not all(part.isidentifier() for part in [*name.split("."), attribute]):
        raise ConfigError(f"write the registry as module:attribute, such as bot:registry, not {path[:80]!r}")
    module = _import(name)
    if not hasattr(module, attribute):
        raise ConfigError(f"module {name} has no attribute {attribute}")
    registry = getattr(module, attribute)
    if not isinstance(registry, ExecutorRegistry):
        raise ConfigError(f"{path} must be an ExecutorRegistry, not {type(registry).__name__}")
    if not len(registry):
        raise ConfigError(f'{path} has no executor: register one with @registry.executor("default")')
    return registry


def _import(name: str) -> ModuleType:
    # The script `mqworker` starts with its own folder on the path, not with the user's.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"there is no module {error.name} in {here} or on the Python path") from None
        raise ConfigError(f"module {name} cannot be imported: {describe_error(error)}") from error
    except Exception as error:
        raise ConfigError(f"module {name} cannot be imported: {describe_error(error)}") from error
