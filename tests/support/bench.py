"""The command that times, in a process of its own."""

import os
import subprocess
import sys


def bench(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """`fastdarts bench` in a process that runs the line `before` first."""
    code = f"import sys; {before}\nfrom fastdarts.cli.entry import main; main(['bench', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"COLUMNS": "500"})
