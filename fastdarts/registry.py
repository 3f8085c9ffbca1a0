"""What can be named: methods, spaces, tasks, candidate operations, each registered in the file that defines it.

A :class:`Registry` holds the things of one kind by name. There are three ways into it. Built-in things are registered
by their own files. An installed package names its things in an entry-point group, such as ``fastdarts.methods``. A
plug-in is a single file, loaded by its path, which registers things of any kind. Packages are imported when a name is
first asked for that is not built in, so nothing below has to know them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, dataclass_transform, get_type_hints

from fastdarts.errors import FastdartsError, did_you_mean

M = TypeVar("M", bound=type)
T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind by name.

    Args:
        kind: the word for one of them, such as "method". Its plural is the entry-point group, ``fastdarts.methods``.
        table: holds them. What is put into it by hand counts like what is registered.
        admit: registers what an entry point names, given the name of the entry and the thing. It is not called for
            modules, which register what they define as they are imported.
        built_in: a package whose modules register the built-in things as they are imported.
        made_of: the class or function that a thing is made of, by default the thing itself.
        hyphen: what stands between the words of a name.
        group: the entry-point group, where the plural of ``kind`` is no word.
    """

    def __init__(
        self,
        kind: str,
        table: dict[str, T],
        admit: Callable[[str, Any], object],
        *,
        built_in: str = "",
        made_of: Callable[[T], object] = lambda thing: thing,
        hyphen: str = "-",
        group: str = "",
    ):
        self.kind, self.table, self.group = kind, table, group or f"fastdarts.{kind}s"
        self._admit, self._built_in, self._made_of, self._hyphen = admit, built_in, made_of, hyphen
        self._loaded, self._loading = False, RLock()
        REGISTRIES.append(self)

    def check_name(self, name: object, at: str) -> None:
        """Raise :class:`FastdartsError` if ``name`` cannot be one; ``at`` is the thing, in words."""
        if not isinstance(name, str) or not re.fullmatch(f"[a-z][a-z0-9{self._hyphen}]*", name):
            signs = {"-": "hyphens", "_": "underscores"}[self._hyphen]
            raise FastdartsError(
                f"{at} has a name that cannot be one: expected a small letter, then small letters, digits and {signs}"
            )

    def add(self, name: str, thing: T) -> None:
        """Put ``thing`` into the table.

        A class or function replaces one of the same module and name, as a notebook or a reloaded module wants it.
        Raises :class:`FastdartsError` if anything else has the name.
        """
        before = self.table.get(name)
        if before is not None and before is not thing and before != thing:
            first, second = origin(self._made_of(before)), origin(self._made_of(thing))
            if first is None or first != second:
                by = f", by {first[0]} and {second[0]}" if first and second else ""
                raise FastdartsError(f"{self.kind} {name!r} is registered twice{by}: give one of them another name")
        self.table[name] = thing

    def knows(self, name: object) -> bool:
        """Whether something has this name; packages are imported only if nothing built in has it."""
        if name not in self.table:
            self.load()
        return name in self.table

    def load(self) -> None:
        """Import, once, the built-in things and those of installed packages.

        Raises :class:`FastdartsError`, naming the entry point, if one cannot be imported or registered.
        """
        with self._loading:  # other threads wait; what is imported here may ask for names itself
            self._load()

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            if self._built_in:
                package = importlib.import_module(self._built_in)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._built_in}.{module.name}")
            for entry in metadata.entry_points(group=self.group):
                self._enter(entry)
        except BaseException:
            self._loaded = False
            raise

    def _enter(self, entry: metadata.EntryPoint) -> None:
        at = f"the entry point {entry.name} = {entry.value} of group {self.group}"
        try:
            thing = entry.load()
        except Exception as error:  # whatever a package of somebody else's may raise
            raise FastdartsError(
                f"{at} cannot be imported ({type(error).__name__}: {error}): mend or remove its package"
            ) from error
        if not isinstance(thing, ModuleType):
            try:
                self._admit(entry.name, thing)
            except FastdartsError as error:
                raise FastdartsError(f"{at} cannot be used: {error}") from error


REGISTRIES: list[Registry[Any]] = []


def origin(thing: object) -> tuple[str, str] | None:
    """The module and the name in it of a class or a function; None for other objects."""
    if not hasattr(thing, "__qualname__"):
        return None
    return thing.__module__, thing.__qualname__


def find_of_task(registry: Registry[T], flag: str, name: str, task: str) -> T:
    """What ``registry`` has under "task/name"; raises :class:`FastdartsError` naming those that the task has."""
    if not registry.knows(f"{task}/{name}"):
        known = sorted(key.removeprefix(f"{task}/") for key in registry.table if key.startswith(f"{task}/"))
        raise FastdartsError(
            f"{flag} is {str(name)[:80]!r}{did_you_mean(name, known)}: expected one of {', '.join(known)}, or one that "
            f"a --plugin registers for task {task}"
        )
    return registry.table[f"{task}/{name}"]


class Method(NamedTuple):
    """A method: its name, its settings, a frozen dataclass whose ``build`` composes policies, and its paper."""

    name: str
    settings: type[Any]
    paper: str


METHODS: dict[str, Method] = {}
_METHODS = Registry(
    "method",
    METHODS,
    lambda name, thing: None,  # a class registers itself
    built_in="fastdarts.methods",
    made_of=lambda method: method.settings,
)


@dataclass_transform(frozen_default=True)
def register(name: str, *, paper: str) -> Callable[[M], M]:
    """Make a class of settings, derived from :class:`fastdarts.tasks.settings.SearchConfig`, the method ``name``.

    The class becomes a frozen dataclass whose ``method`` is ``name``. ``paper`` says who published it, and where.

    Raises :class:`FastdartsError` if another class has that name.
    """

    def decorate(settings: M) -> M:
        _check(name, settings)
        settings.__annotations__["method"] = "str"
        settings.method = name
        settings = dataclasses.dataclass(frozen=True)(settings)
        settings.check_registered()
        _METHODS.add(name, Method(name, settings, paper))
        return settings

    return decorate


def _check(name: str, settings: type[Any]) -> None:
    """Raise :class:`FastdartsError` if ``settings`` can be no method."""
    at = f"method {name!r} ({'.'.join(origin(settings))})"
    _METHODS.check_name(name, at)
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
    _METHODS.load()
    return dict(sorted(METHODS.items()))


def find_method(name: object, flag: str = "--method") -> Method:
    """The method of this name; raises :class:`FastdartsError`, naming ``flag`` and those there are."""
    known = methods()
    if not isinstance(name, str) or name not in known:
        like = did_you_mean(name, known)
        raise FastdartsError(f"{flag} is {str(name)[:80]!r}{like}: expected one of {', '.join(known)}")
    return known[name]


def load_plugin(path: Path) -> None:
    """Import a file of one's own, which registers what it defines. A file that is imported already, or that runs as a
    script, is not imported again.

    Raises :class:`FastdartsError` if there is no such file, or if it cannot be imported. What it has registered until
    then is forgotten.
    """
    path = path.expanduser().resolve()
    if _is_imported(path):
        return
    for registry in REGISTRIES:
        registry.load()  # so that a name which is taken is the plug-in's fault
    name = f"fastdarts_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if spec is None or not path.is_file():
        raise FastdartsError(
            f"--plugin is {path}: expected a Python file that registers a method, a space, a task or an operation"
        )
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _forgotten_on_failure():
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, FastdartsError) or not isinstance(error, Exception | SystemExit):
            raise
        raise FastdartsError(  # whatever a file of somebody else's may raise
            f"the plug-in {path} cannot be imported ({type(error).__name__}: {error}): mend it"
        ) from error


def _is_imported(path: Path) -> bool:
    """Whether a module of this process is of that file: a plug-in, a script that runs, a part of a package."""
    files = [vars(module).get("__file__") for module in [*sys.modules.values()] if isinstance(module, ModuleType)]
    return any(Path(file).resolve() == path for file in files if isinstance(file, str) and file.endswith(path.name))


@contextmanager
def _forgotten_on_failure() -> Iterator[None]:
    """Inside, what is registered before an error is forgotten."""
    before = [(registry.table, dict(registry.table)) for registry in REGISTRIES]
    try:
        yield
    except BaseException:
        for table, things in before:
            table.clear()
            table.update(things)
        raise


def check_call(at: str, builder: object, parameters: tuple[str, ...], gives: str) -> None:
    """Raise :class:`FastdartsError` if ``builder`` cannot be called with so many arguments by position.

    ``at`` is the builder, in words; ``parameters`` name its arguments, and ``gives`` what it makes.
    """
    expected = f"expected a function or class ({', '.join(parameters)}) -> {gives}"
    if not callable(builder):
        raise FastdartsError(f"{at} is a {type(builder).__name__}: {expected}")
    try:
        inspect.signature(builder).bind(*parameters)
    except (TypeError, ValueError) as error:
        raise FastdartsError(f"{at} cannot be called ({error}): {expected}") from error
