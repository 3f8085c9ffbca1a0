"""Makes the sanitized extension in build/sanitize that of the package: a plugin of pytest, for `make sanitize`."""

import importlib.util
import sys
from pathlib import Path

[library] = (Path(__file__).parent.parent / "build" / "sanitize").glob("_C*.so")
spec = importlib.util.spec_from_file_location("fastdarts._C", library)
sys.modules["fastdarts._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["fastdarts._C"])
