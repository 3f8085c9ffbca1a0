"""What a run leaves behind: folder, settings, checkpoint, rows."""

from fastdarts.moved import names

__getattr__ = names("runs")
