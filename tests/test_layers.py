"""The import direction: fastdarts → functional → kernels → csrc, and nothing the other way; tests mirror rooms."""

import ast
import re
from pathlib import Path

import pytest

import fastdarts
from benchmarks.cases import CASES
from fastdarts.registry import methods
from tests.support.paths import ROOT

KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
PACKAGE = sorted((ROOT / "fastdarts").rglob("*.py"))
TESTS = ROOT / "tests"
OPS = sorted({path.relative_to(ROOT / "kernels").parts[0] for path in KERNELS if path.parent != ROOT / "kernels"})


def place(path: Path) -> str:
    """The name of a file in the reports of tests."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Full names of the modules a file imports, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_folders_are_where_this_test_looks() -> None:
    assert ROOT / "kernels" / "mixed_sum" / "contract.py" in KERNELS
    assert ROOT / "fastdarts" / "functional" / "__init__.py" in PACKAGE


@pytest.mark.parametrize("path", KERNELS, ids=place)
def test_kernels_import_nothing_of_fastdarts_outside_themselves(path: Path) -> None:
    assert not {
        name for name in imports(path) if name.startswith("fastdarts") and not name.startswith("fastdarts.kernels")
    }


@pytest.mark.parametrize("path", PACKAGE, ids=place)
def test_functional_is_the_only_door_to_the_kernels(path: Path) -> None:
    through = {name for name in imports(path) if name.startswith("fastdarts.kernels")}
    assert not through or path.parent.name == "functional"


@pytest.mark.parametrize("path", KERNELS, ids=place)
def test_triton_is_imported_by_its_own_files_only(path: Path) -> None:
    if path.stem != "triton" and path.parent.name != "triton":
        assert not {name for name in imports(path) if name.split(".")[0] == "triton"}


@pytest.mark.parametrize("path", [*KERNELS, *PACKAGE], ids=place)
def test_environment_of_the_kernels_is_read_in_the_registry(path: Path) -> None:
    variables = ("FASTDARTS_ISA", "FASTDARTS_STRICT", "TRITON_INTERPRET")
    text = path.read_text(encoding="utf-8")
    reads = any(f'environ.get("{name}"' in text or f'environ["{name}"' in text for name in variables)
    assert reads == (path == ROOT / "kernels" / "registry.py")


def module(path: Path) -> str:
    """The name of a file of fastdarts below the package: cli, bench.cases."""
    return ".".join(path.relative_to(ROOT / "fastdarts").with_suffix("").parts)


def modules_of(path: Path) -> set[str]:
    """The modules of fastdarts a file imports, anywhere in it."""
    known = {module(other) for other in PACKAGE}
    found = set()
    for name in imports(path):
        package, *parts = name.split(".")
        if package == "fastdarts":
            names = (".".join(parts[:2]), *parts[:1], f"{parts[0]}.__init__" if parts else "")
            elsewhere = "functional.__init__" if parts[:1] == ["kernels"] else "__init__"
            found.add(next((candidate for candidate in names if candidate in known), elsewhere))
    return found - {module(path)}


FLOORS = [  # of fastdarts; a module imports what is of its own floor or of one below
    {"errors", "moved", "waiting"},
    {"functional"},
    {"endings", "notices", "ranks", "registry"},
    {"nn"},
    {"forks", "spaces"},
    {"runs"},
    {"tasks"},
    {"trained"},
    {"policies"},
    {"report"},
    {"engine"},
    {"methods"},
    {"bench", "compare", "study", "testing"},
    {"api"},
    {"cli"},
    {"__main__"},
]
PUBLIC = {"architect", "genotypes", "model", "model_search", "operations", "rnn", "utils"}
"""Whose names are those of the public DARTS code; nobody imports them but scripts that were written for it."""
NO_ROOMS = ("fuzz", "public", "support")  # folders of tests beside those of rooms


def floor(name: str) -> int:
    """The number of the floor of a module."""
    return next(number for number, rooms in enumerate(FLOORS) if name.partition(".")[0] in rooms)


def test_every_module_stands_on_a_floor_and_imports_none_above_it() -> None:
    for path in PACKAGE:
        name = module(path)
        if name == "__init__" or name.partition(".")[0] in PUBLIC:
            continue
        above = {found for found in modules_of(path) - {"__init__"} if floor(found) > floor(name)}
        assert not above, f"{name} imports {above}"


def test_no_module_imports_the_names_of_the_public_code() -> None:
    for path in PACKAGE:
        found = {name.partition(".")[0] for name in modules_of(path)} & PUBLIC
        assert not found or module(path).partition(".")[0] in PUBLIC, path


def test_rooms_of_one_floor_import_each_other_in_one_direction_only() -> None:
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE:
        room = module(path).partition(".")[0]
        if room not in PUBLIC | {"__init__"}:
            others = {name.partition(".")[0] for name in modules_of(path)} - {room, "__init__"}
            rooms.setdefault(room, set()).update(others)
    check_no_circle(rooms)


def test_only_the_command_line_and_the_checks_of_ops_know_the_benchmarks() -> None:
    for path in PACKAGE:
        if path.parent.name != "bench" and module(path) not in ("cli.bench", "testing.ops"):  # one rule for results
            assert not {name for name in modules_of(path) if name.startswith("bench")}, path
    assert "bench.run" in modules_of(ROOT / "fastdarts" / "cli" / "bench.py")


NAMED = {  # strings outside fastdarts/methods/ that are a method's name, and what they name there
    "bench.cases": {"darts", "pc-darts"},  # what is timed
    "bench.methods": {"darts", "dr-nas", "enas", "p-darts"},  # beside which is timed, and sizes
    "cli.bench": {"pc-darts"},  # a suite
    "cli.derive": {"darts"},  # the default
    "cli.describe": {"darts"},  # whose supernet is described by default
    "tasks.settings": {"darts"},  # the default, of methods and of spaces
    "runs.run": {"random"},  # the states of generators in a checkpoint
    "spaces.cells.darts": {"darts"},  # the space
    "spaces.cells.nasnet": {"enas"},  # the space
    "spaces.published": {"enas"},  # its networks
    "study.config": {"darts"},  # the default of a study
    "testing.tasks": {"darts"},  # the default
}


def test_nothing_but_its_own_file_compares_the_name_of_a_method() -> None:
    found = {}
    for path in PACKAGE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & methods().keys()
        if strings and path.parent.name != "methods":
            found[module(path)] = strings
    assert found == NAMED


def test_nothing_imports_a_method() -> None:
    importing = {module(path) for path in PACKAGE if any(name.startswith("methods.") for name in modules_of(path))}
    assert not {name for name in importing if not name.startswith("methods.")}
    assert "methods.darts" in importing  # they import what they share


def test_policies_import_no_settings() -> None:
    paths = [path for path in PACKAGE if path.parent.name == "policies"]
    for path in paths:
        assert not {name for name in modules_of(path) if name.endswith("settings")}, path
    assert len(paths) > 15


def check_no_circle(graph: dict[str, set[str]]) -> None:
    """Fails if from a name of ``graph`` a path leads back to it."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' → '.join((*path, name))}"
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_modules_of_fastdarts_form_no_circle() -> None:
    check_no_circle({module(path): modules_of(path) for path in PACKAGE if path.stem != "__init__"})


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_contract_a_cpu_kernel_a_gpu_kernel_and_a_case(op: str) -> None:
    folder, sources = ROOT / "kernels" / op, (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    assert (folder / "contract.py").is_file()
    assert f"cpu/{op}/{op}.cpp" in sources
    triton = (folder / "triton.py").is_file() or (folder / "triton" / "launchers.py").is_file()
    assert triton == (TESTS / "kernels" / op / "interpreted_triton.py").is_file()
    assert triton != ({f"cuda/{op}/{op}.cpp", f"cuda/{op}/{op}.cu"} <= set(sources))
    assert CASES[op]


def test_ops_are_defined_in_their_contracts_only() -> None:
    defining = {path for path in KERNELS if "fastdarts.kernels.registry.define" in imports(path)}
    assert defining == {ROOT / "kernels" / op / "contract.py" for op in OPS}


def test_ops_form_no_circle() -> None:
    graph: dict[str, set[str]] = {op: set() for op in OPS}
    for path in KERNELS:
        op = path.relative_to(ROOT / "kernels").parts[0]
        if op in graph:
            graph[op] |= {name.split(".")[2] for name in imports(path) if name.count(".") > 1} & graph.keys() - {op}
    assert graph["mixed_op"] == {"interleave"}
    check_no_circle(graph)


def test_every_public_name_is_found_where_it_says() -> None:
    names = {}
    for node in ast.walk(ast.parse((ROOT / "fastdarts" / "__init__.py").read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and str(node.module).startswith("fastdarts.")
            and (node.module != "fastdarts.moved")
        ):
            names |= {alias.name: node.module.partition(".")[2] for alias in node.names}
    assert names == fastdarts._MODULES and sorted(fastdarts.__all__) == sorted(names)
    for name in names:
        assert getattr(fastdarts, name) is not None


def test_no_test_imports_from_a_file_of_tests() -> None:
    """What tests share lives in tests/support, so that a file of tests can be moved, run and read alone."""
    found = {place(path): imports(path) for path in sorted(TESTS.rglob("*.py"))}
    assert "tests.support.paths.ROOT" in found["tests/test_layers.py"]
    for path, names in found.items():
        shared = {name for name in names if re.search(r"\b(test_|interpreted_|conftest)", name)}
        assert not shared, f"{path} imports {shared}: move what is shared to tests/support"


def test_the_folders_of_tests_mirror_the_package() -> None:
    """Every folder is a package, or two files of one name would be one module to pytest."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("*.py")} - {Path(), *map(Path, NO_ROOMS)}
    for folder in folders:
        assert (TESTS / folder / "__init__.py").is_file(), folder
        package = ROOT if folder.parts[0] == "kernels" else ROOT / "fastdarts"
        assert (package / folder).is_dir(), f"tests/{folder}: there is no such room in the package"
    assert Path("nn/fusion") in folders and Path("kernels/mixed_op") in folders
