"""What can be named: methods, and later whatever else others may add, each registered in the file that defines it.

The built-in methods are the modules of :mod:`fastdarts.methods`. A package adds its own by an entry point in the group
``fastdarts.methods``, and its spaces in ``fastdarts.spaces``; a single file is a plug-in, loaded by its path. They are
imported when a name is first asked for, so nothing below has to know them.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import sys
import zlib
from collections.abc import Callable
from difflib import get_close_matches
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, dataclass_transform, get_type_hints

from fastdarts.errors import FastdartsError

M = TypeVar("M", bound=type)
GROUP = "fastdarts.methods"


class Method(NamedTuple):
    """A method: its name, its settings, a frozen dataclass whose ``build`` composes policies, and its paper."""

    name: str
    settings: type[Any]
    paper: str


METHODS: dict[str, Method] = {}
_loaded: set[str] = set()


@dataclass_transform(frozen_default=True)
def register(name: str, *, paper: str) -> Callable[[M], M]:
    """Make a class of settings, derived from :class:`fastdarts.tasks.settings.SearchConfig`, the method ``name``.

    The class becomes a frozen dataclass whose ``method`` is ``name``. ``paper`` says who published it, and where.

    Raises :class:`FastdartsError` if another class has that name.
    """

    def decorate(settings: M) -> M:
        _check(name, settings)
        before = METHODS.get(name)
        if before is not None and _origin(before.settings) != _origin(settings):
            raise FastdartsError(
                f"method {name!r} is registered twice, by {before.settings.__module__} and {settings.__module__}: "
                "give one of them another name"
            )
        settings.__annotations__["method"] = "str"
        settings.method = name
        settings = dataclasses.dataclass(frozen=True)(settings)
        settings.check_published()
        METHODS[name] = Method(name, settings, paper)
        return settings

    return decorate


def _origin(settings: type[Any]) -> tuple[str, str]:
    return settings.__module__, settings.__qualname__


def _check(name: str, settings: type[Any]) -> None:
    """Raise :class:`FastdartsError` if ``settings`` can be no method."""
    at = f"method {name!r} ({'.'.join(_origin(settings))})"
    if not re.fullmatch("[a-z][a-z0-9-]*", name) or hasattr(settings, name):
        raise FastdartsError(
            f"{at} has a name that cannot be one: expected small letters, digits and hyphens, no setting"
        )
    if not hasattr(settings, "free_on_resume") or getattr(settings.build, "__isabstractmethod__", False):
        raise FastdartsError(
            f"{at} is no class of settings with a build(space): derive it from SearchConfig, or from a class that is"
        )
    if not (settings.__doc__ or "").strip():
        raise FastdartsError(f"{at} has no docstring: say in its first line what the method is")
    try:
        get_type_hints(settings, include_extras=True)
    except Exception as error:  # whatever an annotation may raise
        raise FastdartsError(f"{at} has an annotation that cannot be read ({error}): mend it") from error


def methods() -> dict[str, Method]:
    """All methods by name, in alphabetical order."""
    _load()
    return dict(sorted(METHODS.items()))


def find_method(name: object) -> Method:
    """The method of this name; raises :class:`FastdartsError` naming those there are."""
    known = methods()
    if not isinstance(name, str) or name not in known:
        near = get_close_matches(name, known, n=1) if isinstance(name, str) else ()
        like = f" (similar is {near[0]})" if near else ""
        raise FastdartsError(f"--method is {str(name)[:80]!r}{like}: expected one of {', '.join(known)}")
    return known[name]


def load_plugin(path: Path) -> None:
    """Import a file of one's own, which registers what it defines.

    Raises :class:`FastdartsError` if there is no such file, or if it cannot be imported.
    """
    path = path.expanduser().resolve()
    if str(path) in _loaded:
        return
    _load()  # so that a name which is taken is the plug-in's fault
    name = f"fastdarts_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if spec is None or not path.is_file():
        raise FastdartsError(f"--plugin is {path}: expected a Python file that registers a method")
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FastdartsError:
        raise
    except (Exception, SystemExit) as error:  # whatever a file of somebody else's may raise
        raise FastdartsError(
            f"the plug-in {path} cannot be imported ({type(error).__name__}: {error}): mend it"
        ) from error
    _loaded.add(str(path))


def _load() -> None:
    """Import the built-in methods and those of installed packages, once."""
    if GROUP in _loaded:
        return
    _loaded.add(GROUP)  # before what follows, which may ask for methods
    try:
        package = importlib.import_module(GROUP)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{GROUP}.{module.name}")
        load_entries(GROUP)
    except BaseException:
        _loaded.discard(GROUP)
        raise


def load_entries(group: str) -> list[Any]:
    """What installed packages name in an entry-point group, imported.

    Raises :class:`FastdartsError`, naming the entry, if one cannot be imported.
    """
    found = []
    for entry in metadata.entry_points(group=group):
        try:
            found.append(entry.load())
        except Exception as error:  # whatever a package of somebody else's may raise
            raise FastdartsError(
                f"the entry point {entry.name} = {entry.value} of group {group} cannot be imported "
                f"({type(error).__name__}: {error}): mend or remove its package"
            ) from error
    return found
