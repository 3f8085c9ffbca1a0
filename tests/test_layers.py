"""The import direction: fastdarts → functional → kernels → csrc, and nothing the other way."""

import ast
from pathlib import Path

import pytest

import fastdarts

ROOT = Path(__file__).parent.parent
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
PACKAGE = sorted((ROOT / "fastdarts").rglob("*.py"))


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
    assert ROOT / "kernels" / "mixed_sum.py" in KERNELS
    assert ROOT / "fastdarts" / "functional" / "__init__.py" in PACKAGE


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_import_nothing_of_fastdarts_outside_themselves(path: Path) -> None:
    assert not {
        name for name in imports(path) if name.startswith("fastdarts") and not name.startswith("fastdarts.kernels")
    }


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_functional_is_the_only_door_to_the_kernels(path: Path) -> None:
    through = {name for name in imports(path) if name.startswith("fastdarts.kernels")}
    assert not through or path.parent.name == "functional"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_triton_is_imported_by_its_own_folder_only(path: Path) -> None:
    if path.parent.name != "triton":
        assert not {name for name in imports(path) if name.split(".")[0] == "triton"}


@pytest.mark.parametrize("path", [*KERNELS, *PACKAGE], ids=lambda path: path.stem)
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


NETWORKS = {
    "endings", "errors", "functional.__init__", "functional.arguments", "functional.autocast", "functional.flat",
    "functional.likelihood", "functional.mixed_op", "functional.mixed_sum", "functional.recurrent", "fusion",
    "kinks", "masking", "operations", "genotypes", "model", "notices", "model_search", "architect", "hypergradient",
    "curvature", "discretise", "distributed", "flat", "relaxed", "alignment", "parts", "shapes", "sync_bn",
    "topology",
    "rnn.cells", "rnn.genotypes", "rnn.model",
}  # fmt: skip


def test_networks_know_nothing_of_runs_and_nobody_but_main_knows_the_command_line() -> None:
    for path in PACKAGE:
        if module(path) in NETWORKS:
            assert modules_of(path) <= NETWORKS, path
        if path.stem != "__main__":
            assert "cli" not in modules_of(path), path
        if path.stem != "cli":
            assert "commands" not in modules_of(path), path


def test_only_the_command_line_knows_the_benchmarks() -> None:
    for path in PACKAGE:
        if path.parent.name != "bench" and path.stem != "commands":
            assert not {name for name in modules_of(path) if name.startswith("bench")}, path
    assert "bench.run" in modules_of(ROOT / "fastdarts" / "commands.py")


def test_modules_of_fastdarts_form_no_circle() -> None:
    graph = {module(path): modules_of(path) for path in PACKAGE if path.stem != "__init__"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' → '.join((*path, name))}"
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_op_has_a_contract_a_cpu_kernel_a_gpu_kernel_and_a_case() -> None:
    sources = (ROOT / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    cases = (ROOT / "benchmarks" / "cases.py").read_text(encoding="utf-8")
    for path in (ROOT / "kernels").glob("*.py"):
        if "define(" in path.read_text(encoding="utf-8") and path.stem != "registry":
            assert f"cpu/{path.stem}.cpp" in sources
            assert (ROOT / "csrc" / "cpu" / f"{path.stem}.cpp").is_file()
            if f"cuda/{path.stem}.cu" in sources:
                assert (ROOT / "csrc" / "cuda" / f"{path.stem}.cu").is_file()
                assert f"cuda/{path.stem}.cpp" in sources
            else:
                assert (ROOT / "kernels" / "triton" / f"{path.stem}.py").is_file()
                assert (ROOT / "tests" / f"interpreted_{path.stem}.py").is_file()
            assert path.stem in cases


def test_every_public_name_is_found_where_it_says() -> None:
    names = {}
    for node in ast.walk(ast.parse((ROOT / "fastdarts" / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastdarts."):
            names |= {alias.name: node.module.partition(".")[2] for alias in node.names}
    assert names == fastdarts._MODULES and sorted(fastdarts.__all__) == sorted(names)
    for name in names:
        assert getattr(fastdarts, name) is not None
