"""Whatever a checkpoint names (external data, links, functions), reading it opens no file, starts
nothing and imports nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
FOLDERS = ("formats", "torch", "tensorflow", "dcp", "dcp-sharded")
FILES = sorted(path for folder in FOLDERS for path in (DATA / folder).iterdir() if path.is_file())

SCRIPT = """
import sys
from git_theta.core.contracts import ReadsContents, ReadsSibling
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError
from git_theta.plugins import tables

files = [(name, open(name, "rb").read()) for name in sys.argv[1:]]
formats = [tables.checkpoint_format(name) for name in tables.FORMATS]

def read_all():
    for name, data in files:
        for form in formats:
            form.sniff(data[:4096])
            for read in (form.scan, *([form.contents] if isinstance(form, ReadsContents) else [])):
                try:
                    read(BytesSource(data))
                except FormatError:
                    pass
            if isinstance(form, ReadsSibling):
                for other in ("small.data-00000-of-00001", "__0_0.distcp"):
                    for _, beside in files:
                        try:
                            form.scan_beside(BytesSource(data), other, BytesSource(beside))
                        except FormatError:
                            pass

read_all()  # modules of our own are imported on the way
seen = []
def hook(event, arguments):
    if event != "builtins.id":
        seen.append((event, arguments))
sys.addaudithook(hook)
read_all()
print(len(files), sorted({(event, str(arguments)[:80]) for event, arguments in seen}))
"""


def test_nothing_is_opened() -> None:
    assert any(b"/etc/passwd" in path.read_bytes() for path in FILES if path.suffix == ".onnx")
    assert any(b"/etc/passwd" in path.read_bytes() for path in FILES if path.suffix == ".h5")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, FILES)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{len(FILES)} []\n"
