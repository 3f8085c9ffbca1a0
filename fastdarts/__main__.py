"""``python -m fastdarts``."""

from fastdarts.cli import main

main()
