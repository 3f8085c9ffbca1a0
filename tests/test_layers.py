"""The import direction: fastdarts → functional → kernels → csrc, and nothing the other way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
PACKAGE = sorted((ROOT / "fastdarts").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of the modules a file imports, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_folders_are_where_this_test_looks() -> None:
    assert ROOT / "kernels" / "mixed_sum.py" in KERNELS
    assert ROOT / "fastdarts" / "functional.py" in PACKAGE


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_import_nothing_of_fastdarts_outside_themselves(path: Path) -> None:
    assert not {
        name for name in imports(path) if name.startswith("fastdarts") and not name.startswith("fastdarts.kernels")
    }


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_functional_is_the_only_door_to_the_kernels(path: Path) -> None:
    through = {name for name in imports(path) if name.startswith("fastdarts.kernels")}
    assert not through or path.name == "functional.py"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_triton_is_imported_by_its_own_folder_only(path: Path) -> None:
    if path.parent.name != "triton":
        assert not {name for name in imports(path) if name.split(".")[0] == "triton"}


@pytest.mark.parametrize("path", [*KERNELS, *PACKAGE], ids=lambda path: path.stem)
def test_environment_of_the_kernels_is_read_in_the_registry(path: Path) -> None:
    variables = ("FASTDARTS_STRICT", "TRITON_INTERPRET")
    text = path.read_text()
    reads = any(f'environ.get("{name}"' in text or f'environ["{name}"' in text for name in variables)
    assert reads == (path == ROOT / "kernels" / "registry.py")


def modules_of(path: Path) -> set[str]:
    """The modules of fastdarts a file imports, anywhere in it."""
    stems = {other.stem for other in PACKAGE}
    found = set()
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "fastdarts":
            module = rest.split(".")[0]
            found.add(module if module in stems else "functional" if module == "kernels" else "__init__")
    return found - {path.stem}


NETWORKS = {
    "errors", "functional", "fusion", "operations", "genotypes", "model", "model_search", "architect", "discretise",
}  # fmt: skip


def test_networks_know_nothing_of_runs_and_nobody_but_main_knows_the_command_line() -> None:
    for path in PACKAGE:
        if path.stem in NETWORKS:
            assert modules_of(path) <= NETWORKS, path
        if path.stem != "__main__":
            assert "cli" not in modules_of(path), path


def test_modules_of_fastdarts_form_no_circle() -> None:
    graph = {path.stem: modules_of(path) for path in PACKAGE if path.stem != "__init__"}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' → '.join((*path, module))}"
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_op_has_a_contract_a_cpu_kernel_a_case_and_a_triton_kernel_or_says_it_has_none() -> None:
    sources = (ROOT / "csrc" / "sources.txt").read_text().splitlines()
    cases = (ROOT / "benchmarks" / "cases.py").read_text()
    for path in (ROOT / "kernels").glob("*.py"):
        if path.stem not in ("__init__", "registry"):
            assert f"cpu/{path.stem}.cpp" in sources
            assert (ROOT / "csrc" / "cpu" / f"{path.stem}.cpp").is_file()
            has_triton = (ROOT / "kernels" / "triton" / f"{path.stem}.py").is_file()
            assert has_triton != ("triton=None" in path.read_text())
            assert path.stem in cases
