"""Where the project is, and the data of its tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
OP_FOLDERS = sorted(path.name for path in (ROOT / "kernels").iterdir() if (path / "contract.py").is_file())
