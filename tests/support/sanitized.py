"""Makes the sanitized extension in build/sanitize that of the package: a plugin of pytest, for `make sanitize`."""

import importlib.util
import sys

from tests.support.paths import ROOT

[library] = (ROOT / "build" / "sanitize").glob("_C*.so")
spec = importlib.util.spec_from_file_location("fastdarts._C", library)
sys.modules["fastdarts._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["fastdarts._C"])
