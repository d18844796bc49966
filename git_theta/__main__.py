"""Where ``git theta`` starts.

Git waits for the filter's first answer, the hook and the merge driver: they import nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> int:
    """Run the command that the arguments name; the exit code.

    An error is one line on standard error, never a traceback.
    """
    if sys.implementation.name == "cpython":
        # The default here; another value could keep zstandard from being imported
        os.environ["PYTHON_ZSTANDARD_IMPORT_POLICY"] = "cext"
    try:
        from git_theta.drivers.encoding import ensure_utf8

        ensure_utf8()
        if sys.argv[1:2] == ["filter-process"] and not {"-h", "--help"}.intersection(sys.argv[2:]):
            _filter_process()
        if sys.argv[1:2] == ["pre-push"] and len(sys.argv) == 4:
            from git_theta.drivers.pre_push_hook import main as pre_push

            return pre_push(sys.argv[2], sys.argv[3])
        if (
            sys.argv[1:2] == ["diff-driver"]
            and len(sys.argv) > 2
            and not (len(sys.argv) == 3 and sys.argv[2] in ("-h", "--help"))
        ):
            from git_theta.drivers.diff_driver import main as diff_driver

            return diff_driver(sys.argv[2:])
        if sys.argv[1:2] == ["merge-driver"] and len(sys.argv) == 6:
            from git_theta.drivers.merge_driver import main as merge_driver

            return merge_driver(*sys.argv[2:])
        if sys.argv[1:2] == ["merge-strategy"] and "--" in sys.argv:
            from git_theta.drivers.merge_strategy import main as merge_strategy

            return merge_strategy(sys.argv[2:])
        from git_theta.cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        return _broken_pipe()
    except Exception as error:  # whatever it is, a user gets a line
        if os.environ.get("GIT_THETA_DEBUG", "") not in ("", "0"):
            raise
        print(f"git-theta: {_line(error)}", file=sys.stderr)
        # 1 would tell git that the files in conflict are there
        failed = 2 if sys.argv[1:2] == ["merge-strategy"] else 1
        return int(getattr(error, "exit_code", failed))


def _filter_process() -> NoReturn:
    """Serve git. Small adds are mostly start and end, so neither does what has no effect: together
    that saves a fifth.
    """
    import gc

    gc.set_threshold(1_000_000)  # what is imported stays; looking through it for garbage is in vain
    # Dataclasses imports it, but needs it only for classes without a docstring
    _import_when_used("inspect")
    # Pathlib imports urllib.parse, which needs it only for URLs with an IPv6 host
    _import_when_used("ipaddress")
    _import_when_used("platform")  # zstandard imports it, only to ask what it is told here
    from git_theta.drivers.filter_process import main as serve

    code = serve(sys.argv[2:])
    sys.stderr.flush()
    os._exit(code)  # everything is closed; taking the interpreter apart would only let git wait


def _import_when_used(name: str) -> None:
    """Have ``import name`` do nothing until something in the module is asked for, from whichever
    thread.
    """
    from _thread import RLock
    from importlib import import_module
    from types import ModuleType

    lock = RLock()

    class Later(ModuleType):
        def __getattr__(self, attribute: str) -> object:
            with lock:
                if sys.modules.get(name) is self:
                    del sys.modules[name]
                    self.__dict__.update(vars(import_module(name)))
            return getattr(sys.modules[name], attribute)

    if name not in sys.modules:
        sys.modules[name] = Later(name)


def _interrupted() -> int:
    """The exit code after Ctrl-C.

    Python would wait for our threads, of which one may compute for long.
    """
    import threading

    if any(thread.name.startswith("git-theta") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
    return 130


def _broken_pipe() -> int:
    """Whoever read our output has seen enough.

    Python would complain once more while it flushes at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 141


def _line(error: Exception) -> str:
    from git_theta.errors import ThetaError, damaged

    text = " ".join(str(error).split())
    if isinstance(error, ThetaError):
        return text
    if isinstance(error, ImportError):
        return damaged(error)
    if isinstance(error, OSError):
        where = f": {error.filename!a}" if error.filename else ""
        return f"{error.strerror or text}{where}"
    if isinstance(error, MemoryError):
        return "out of memory"
    return (
        f"internal error: {type(error).__name__}: {text[:300]} (please report it; with"
        " GIT_THETA_DEBUG=1 it says where)"
    )


if __name__ == "__main__":
    sys.exit(main())
