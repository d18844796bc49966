"""Runs a command and appends the peak of its resident memory (bytes) to a file: ``peak.py FILE
COMMAND...``.
"""

from __future__ import annotations

import os
import subprocess
import sys


def main() -> int:
    """The command's exit code."""
    process = subprocess.Popen(sys.argv[2:])
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    with open(sys.argv[1], "a", encoding="ascii") as file:
        file.write(f"{usage.ru_maxrss * unit}\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
