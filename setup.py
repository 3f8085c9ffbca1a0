"""Package map and the one native extension; everything else about the project stands in pyproject.toml.

FASTDARTS_BUILD_EXT = auto (default): build the extension if a C++ compiler is found, else a pure Python
package; 0: never; 1: fail where it cannot be built.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
PACKAGES = {
    "fastdarts": "fastdarts",
    "fastdarts.bench": "fastdarts/bench",
    "fastdarts.kernels": "kernels",  # a top-level `kernels` would clash with another project's package
    "fastdarts.kernels.triton": "kernels/triton",
}


def wants_extension() -> bool:
    """Reads FASTDARTS_BUILD_EXT and looks for a compiler."""
    choice = os.environ.get("FASTDARTS_BUILD_EXT", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"FASTDARTS_BUILD_EXT is {choice!r}; set it to auto, 0 or 1.")
    if choice == "0":
        return False
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler):
        return True
    if choice == "1":
        raise SystemExit(f"FASTDARTS_BUILD_EXT=1, but the C++ compiler {compiler!r} is not on PATH: install it.")
    print(f"fastdarts: no C++ compiler {compiler!r} on PATH; building the pure Python package (slower).")
    return False


def extension_arguments() -> dict:
    """The extension and its builder; torch can be imported by now (under isolation by setup_requires)."""
    from torch.utils import cpp_extension

    class BuildExtension(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                raise SystemExit(
                    f"The C++ compiler failed on fastdarts._C ({error}): mend what it reports above, "
                    "or set FASTDARTS_BUILD_EXT=0 to go without the native kernels."
                ) from error

    lines = (ROOT / "csrc" / "sources.txt").read_text().splitlines()
    sources = [f"csrc/{line}" for line in map(str.strip, lines) if line.endswith(".cpp") and line[0] != "#"]
    extension = Extension(
        "fastdarts._C",
        sources=sources,
        depends=["csrc/sources.txt", *map(str, Path("csrc").rglob("*.h"))],
        include_dirs=[str(ROOT / "csrc"), *cpp_extension.include_paths()],
        library_dirs=cpp_extension.library_paths(),
        libraries=["c10", "torch_cpu"],
        extra_compile_args=[
            "-std=c++20",
            "-O3",
            "-fopenmp-simd",
            "-fno-math-errno",
            "-Wno-psabi",
            "-fvisibility=hidden",
            "-g0",
        ],
        language="c++",
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


arguments = {}
if wants_extension():
    if find_spec("torch"):
        arguments = extension_arguments()
    elif "egg_info" in sys.argv:  # the build front end asks what the isolated build environment should hold
        arguments = {"setup_requires": ["torch>=2.11", "ninja"]}
    elif os.environ.get("FASTDARTS_BUILD_EXT") == "1" and "dist_info" not in sys.argv:
        raise SystemExit("FASTDARTS_BUILD_EXT=1, but torch cannot be imported here: install torch>=2.11 first.")
    else:
        print("fastdarts: torch cannot be imported here; building the pure Python package (slower).")

setup(packages=list(PACKAGES), package_dir=PACKAGES, **arguments)
