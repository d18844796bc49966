"""How Git-Theta is extended: hooks, and the registry that finds what registers through them.

A plugin's module does ``from git_theta.plugins import hookimpl``; nothing is imported here before
it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from git_theta.plugins.hookspecs import hookimpl

__all__ = ["hookimpl"]


def __getattr__(name: str) -> object:
    if name == "hookimpl":
        from git_theta.plugins.hookspecs import hookimpl

        return hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
