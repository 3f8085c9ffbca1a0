"""What an installation does: fresh processes without Triton or _C, the wheel, the source distribution."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from fastdarts.kernels import registry
from tests.support.paths import ROOT

SOURCES = (
    "pyproject.toml setup.py MANIFEST.in CMakeLists.txt .clang-format README.md LICENSE "
    "csrc kernels fastdarts tests benchmarks"
)

PREPARE = """
import sys, warnings
import torch
warnings.simplefilter("always")
def run(dtype=torch.float32):
    from fastdarts.functional import mixed_sum
    z = [torch.arange(24.0).view(2, 3, 2, 2).to(dtype).requires_grad_()] * 2
    out = mixed_sum(z, torch.tensor([0.5, 0.5]), (True, False)).out
    out.square().sum().backward()
    return z[0].grad
"""


def python(code: str, *, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    command = [sys.executable, "-c", PREPARE + code]
    env = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)


def test_importing_does_not_import_triton() -> None:
    result = python("run(); print('triton' in sys.modules)")
    assert result.stdout.split() == ["False"], result.stderr


def test_works_where_triton_cannot_be_imported() -> None:
    result = python("""
sys.modules["triton"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
run()
from fastdarts.functional import implementations
print(*[row.reason for row in implementations() if row.name == "triton"], sep="\\n")
""")
    assert result.returncode == 0, result.stderr
    expected = (
        "torch sees no CUDA device",
        "the package triton is not installed",
    )
    assert all(line in expected for line in result.stdout.splitlines())


def test_without_the_extension_it_works_and_says_so_once() -> None:
    result = python("""
sys.modules["fastdarts._C"] = None
import fastdarts.functional
print("imported", file=sys.stderr)
without = run()
assert torch.equal(run(), without)
assert fastdarts.functional.native()["loaded"] is False
""")
    assert result.returncode == 0, result.stderr
    quiet, loud = result.stderr.split("imported\n")
    assert not quiet
    assert loud.count("Warning") == 1
    assert "without its native kernels" in loud and "FASTDARTS_BUILD_EXT=1 pip install" in loud


def test_strict_mode_makes_a_fall_to_the_reference_an_error() -> None:
    result = python("sys.modules['fastdarts._C'] = None; run()", FASTDARTS_STRICT="1")
    assert "RuntimeError: FASTDARTS_STRICT=1 forbids the reference of mixed_sum: fastdarts was built" in result.stderr
    result = python("run(torch.bfloat16)", FASTDARTS_STRICT="1")
    assert "forbids the reference of mixed_sum: the native kernels know float32 and float64" in result.stderr


def test_an_extension_that_does_not_load_warns_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a shared object")
    result = python(f"""
import importlib.util, types
path = importlib.util.find_spec("fastdarts").submodule_search_locations
package = sys.modules["fastdarts"] = types.ModuleType("fastdarts")
package.__path__ = [{str(tmp_path)!r}, *path]  # the broken file comes first
run()
""")
    assert result.returncode == 0, result.stderr
    assert "fastdarts._C does not load" in result.stderr


def test_the_folder_refuses_its_other_name() -> None:
    result = python("import kernels", cwd=ROOT)
    assert "ImportError: This folder is the package fastdarts.kernels, not 'kernels'" in result.stderr


def test_a_checkout_that_hides_what_is_installed_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fastdarts", tmp_path / "fastdarts", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for arguments in (["-c", "import fastdarts.functional"], ["-m", "fastdarts", "--version"]):
        # -S leaves out what an editable installation adds, which finds the kernels from everywhere
        done = subprocess.run([sys.executable, "-S", *arguments], cwd=tmp_path, capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert done.returncode != 0 and f"{tmp_path / 'fastdarts'} is the folder of a checkout" in last, last


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the sources, so that builds leave nothing in the tree."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES.split():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


def build(kind: str, source: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Calls the build backend's hook, as pip --no-build-isolation does."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


SMALL = ("module.cpp", "cpu/block_cache.cpp")


def shorten(source: Path, *files: str) -> None:
    """Leaves these of the native sources to be built: all of them take minutes, and the other tests run on all."""
    (source / "csrc" / "sources.txt").write_text("\n".join(files), encoding="utf-8")


def test_a_wheel_without_the_extension_is_pure(checkout: Path, tmp_path: Path) -> None:
    result = build("wheel", checkout, tmp_path, FASTDARTS_BUILD_EXT="0")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(checkout)) for path in (checkout / "fastdarts").rglob("*.py")}
    modules |= {f"fastdarts/{path.relative_to(checkout)}" for path in (checkout / "kernels").rglob("*.py")}
    assert {"fastdarts/bench/run.py", "fastdarts/kernels/mixed_sum/triton.py"} <= modules
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_source_distribution_builds_a_wheel(checkout: Path, tmp_path: Path) -> None:
    result = build("sdist", checkout, tmp_path, FASTDARTS_BUILD_EXT="0")
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    sources = {file.relative_to(checkout) for file in (checkout / "csrc").rglob("*") if file.is_file()}
    assert len(sources) > 20
    assert [file for file in sources | {Path("CMakeLists.txt")} if not (source / file).is_file()] == []
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("no C++ compiler to build the extension with")
    shorten(source, *SMALL)
    result = build("wheel", source, tmp_path, FASTDARTS_BUILD_EXT="1", MAX_JOBS="2")
    assert result.returncode == 0, result.stderr
    assert "fastdarts: compiling native kernels, 2 files at once: about 2 min." in result.stdout
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("fastdarts/_C.")]


def test_an_isolated_build_asks_for_torch_only_where_it_can_use_it(checkout: Path) -> None:
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from setuptools import build_meta
print(build_meta.get_requires_for_build_wheel())
"""

    def requirements(**environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=checkout,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()[-1]

    assert requirements(CXX=sys.executable) == "['torch>=2.11', 'ninja']"
    assert requirements(CXX=sys.executable, FASTDARTS_BUILD_EXT="0") == "[]"
    assert requirements(CXX="no-such-compiler") == "[]"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FASTDARTS_BUILD_EXT": "yes"}, "FASTDARTS_BUILD_EXT is 'yes'; set it to auto, 0 or 1."),
        (
            {"FASTDARTS_BUILD_EXT": "1", "CXX": "no-such-compiler"},
            "'no-such-compiler' is not on PATH: install it.",
        ),
        ({"CXX": "false"}, "set FASTDARTS_BUILD_EXT=0 to go without the native kernels"),
        (
            {"CUDA_HOME": "/no/toolkit"},
            "CUDA_HOME is '/no/toolkit', which has no bin/nvcc: set it to the folder of a CUDA",
        ),
    ],
    ids=["unknown-value", "no-compiler", "broken-compiler", "no-toolkit"],
)
def test_a_build_that_cannot_succeed_says_what_to_do(
    checkout: Path, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    result = build("wheel", checkout, tmp_path, **environment)
    assert result.returncode != 0
    assert says in result.stderr
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize(
    ("architectures", "says"),
    [
        ("H200", "FASTDARTS_CUDA_ARCHITECTURES is 'H200'; set it to numbers such as 80,90, or to native."),
        ("90,80,130", "nvcc does not know sm_130: take a newer toolkit"),
        ("native", "FASTDARTS_CUDA_ARCHITECTURES is native, but torch sees no GPU: name a number such as 90."),
    ],
)
def test_architectures_that_cannot_be_built_are_refused(
    checkout: Path, tmp_path: Path, architectures: str, says: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart_static.a").touch()
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\necho sm_80 sm_90 sm_100\n", encoding="utf-8")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    options = {"CUDA_HOME": str(tmp_path), "FASTDARTS_CUDA_ARCHITECTURES": architectures, "CUDA_VISIBLE_DEVICES": ""}
    result = build("wheel", checkout, tmp_path, FASTDARTS_BUILD_EXT="1", **options)
    assert result.returncode != 0 and says in result.stderr


@pytest.mark.skipif(not os.environ.get("CUDA_HOME"), reason="CUDA_HOME is not set")
@pytest.mark.parametrize(("architectures", "built"), [("", "100] True"), ("90", "[90] True")], ids=["all", "one"])
def test_with_a_toolkit_the_extension_has_cuda_kernels_and_needs_no_cuda_library(
    checkout: Path, tmp_path: Path, architectures: str, built: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkout, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    shorten(source, *SMALL, "cuda/flat/flat.cpp", "cuda/flat/flat.cu")
    result = build("wheel", source, tmp_path, FASTDARTS_BUILD_EXT="1", FASTDARTS_CUDA_ARCHITECTURES=architectures)
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        [name] = [name for name in wheel.namelist() if name.startswith("fastdarts/_C.")]
        library = wheel.extract(name, tmp_path)
    needed = subprocess.check_output(["readelf", "--dynamic", library], text=True)
    assert "libtorch_cpu.so" in needed and "cuda" not in needed
    result = python(f"""
from torch import library
library.Library("fastdarts", "DEF").define("flat_norm(Tensor x) -> Tensor")
import importlib.util
spec = importlib.util.spec_from_file_location("_C", {library!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.cuda(), torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::flat_norm", "CUDA"))
""")
    assert result.stdout.split("\n")[0].endswith(built), result.stdout + result.stderr


@pytest.mark.skipif(not torch.version.cuda, reason="this torch is for CPUs")
def test_torch_exports_the_function_that_tells_its_current_stream() -> None:
    header = (ROOT / "csrc" / "cuda" / "stream.h").read_text(encoding="utf-8")
    [library] = re.findall(r'dlopen\("([^"]+)"', header)
    [function] = re.findall(r'dlsym\(library, "([^"]+)"', header)
    loaded = ctypes.CDLL(library, mode=os.RTLD_NOLOAD)
    stream = ctypes.c_void_p(-1)
    failed = getattr(loaded, function)(0, ctypes.byref(stream))
    if torch.cuda.is_available():
        assert not failed and stream.value in (None, torch.cuda.current_stream(0).cuda_stream)
    else:
        assert failed and stream.value == ctypes.c_void_p(-1).value


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not on PATH")
def test_cmake_builds_the_same_extension_from_the_same_list(checkout: Path, tmp_path: Path) -> None:
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O0"]
    configure = ["cmake", "-B", str(tmp_path), *options, "-S"]

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    run(*configure, str(checkout))
    commands = json.loads((tmp_path / "compile_commands.json").read_text(encoding="utf-8"))
    files = [str(Path(command["file"]).relative_to(checkout / "csrc")) for command in commands]
    lines = (checkout / "csrc" / "sources.txt").read_text(encoding="utf-8").splitlines()
    assert files == [line for line in lines if line.endswith(".cpp") and line[0] != "#" and line[:5] != "cuda/"]
    source = tmp_path / "source"
    shutil.copytree(checkout, source)
    shorten(source, *SMALL)
    run(*configure[:2], str(tmp_path / "build"), *configure[3:], str(source))
    run("cmake", "--build", str(tmp_path / "build"), "--parallel", "2")
    [library] = (tmp_path / "build").glob("_C*.so")
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_C", {str(library)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.compiler())
"""
    result = python(code)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr


@pytest.mark.parametrize("chosen", ["cuda", "triton", "metal"])
def test_gpu_kernels_that_are_insisted_upon_are_there_or_refused(chosen: str) -> None:
    code = "from fastdarts.kernels.mixed_op.contract import forward_op; print(forward_op.best('cuda'))"
    missing = registry.MISSING.get(chosen, "set it to cuda or triton")
    env = os.environ | {"FASTDARTS_GPU": chosen}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env, cwd=ROOT)
    if missing:
        assert done.returncode != 0 and f"FASTDARTS_GPU is '{chosen}'" in done.stderr and missing in done.stderr
    else:
        assert done.stdout.strip() == chosen, done.stderr
