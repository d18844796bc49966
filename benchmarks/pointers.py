"""What the Git LFS pointers of many pushes cost: bytes in the remote's pack, and seconds a push.

``python benchmarks/pointers.py --folder FOLDER`` pushes 500 times 100 pointers to a bare repository
below FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import time
from pathlib import Path
from statistics import median

from git_theta.core.manifest import ObjectRef
from git_theta.git.config.remotes import Remote
from git_theta.git.repository import discover
from git_theta.git.writing.pointer_repository import PointerRepository, PointersRef, Pushed


def main() -> None:
    """Print the numbers as a row of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="An empty folder to work in.")
    parser.add_argument("--pushes", type=int, default=500, help="Push N times.", metavar="N")
    parser.add_argument("--objects", type=int, default=100, help="Name N new objects each time.")
    options = parser.parse_args()
    clone, remote = options.folder / "clone", options.folder / "remote.git"
    for place, more in ((clone, ()), (remote, ("--bare",))):
        subprocess.run(["git", "init", "-q", *more, str(place)], check=True)
    scratch = PointerRepository(discover(clone))
    target = PointersRef(Remote("origin", remote.as_uri(), remote.as_uri()), "refs/theta/objects")
    scratch.prepare()
    tip, seconds = "", list[float]()
    for push in range(options.pushes):
        refs = [
            ObjectRef(hashlib.sha256(b"%d %d" % (push, number)).hexdigest(), 1000 + push * number)
            for number in range(options.objects)
        ]
        start = time.perf_counter()
        new = scratch.commit(scratch.unnamed(tip, refs), tip)
        outcome, words = scratch.push(target, tip, new)
        assert outcome is Pushed.DONE, words
        scratch.remember(target, new, [])
        scratch.tidy()
        seconds.append(time.perf_counter() - start)
        tip = new
    subprocess.run(["git", "-C", str(remote), "gc", "-q"], check=True)
    size = sum(path.stat().st_size for path in (remote / "objects" / "pack").glob("*.pack"))
    assert len(scratch.unnamed(tip, [])) == 0
    named = sum(1 for _ in scratch.named(tip))
    first, last = median(seconds[:20]), median(seconds[-20:])
    print(
        f"| pack of {options.pushes} pushes of {options.objects} pointers ({named:,} named) |"
        f" {size:,} B; a push {first:.2f} s at first, {last:.2f} s at last |"
    )


if __name__ == "__main__":
    main()
