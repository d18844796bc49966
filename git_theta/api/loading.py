"""Reading tensors of any revision: ``load`` and ``open``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from git_theta.api import arrays, sessions
from git_theta.api.arrays import Framework
from git_theta.api.sessions import RepoLike, Revision, StrPath
from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.core.names import display
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import UsageError
from git_theta.workflows.comparing.compare import matches
from git_theta.workflows.restoring.reader import Reader, manifest_at

if TYPE_CHECKING:
    import numpy as np

Params = str | Sequence[str]


@overload
def load(
    rev: Revision,
    path: StrPath,
    params: Params = ...,
    framework: Literal["numpy"] = ...,
    *,
    repo: RepoLike | None = ...,
) -> dict[str, np.ndarray]: ...


@overload
def load(
    rev: Revision,
    path: StrPath,
    params: Params = ...,
    *,
    framework: Literal["safetensors"],
    repo: RepoLike | None = ...,
) -> bytes: ...


@overload
def load(
    rev: Revision,
    path: StrPath,
    params: Params = ...,
    framework: str = ...,
    *,
    repo: RepoLike | None = ...,
) -> Any: ...


def load(
    rev: Revision,
    path: StrPath,
    params: Params = "*",
    framework: str = "numpy",
    *,
    repo: RepoLike | None = None,
) -> Any:
    """The tensors of the model at ``path`` in revision ``rev``, as a dict of arrays in the file's
    order; nothing is checked out.

    ``rev`` is anything git understands: ``HEAD``, a branch, tag or commit, ``main~3``; ``:0`` is
    what is staged. ``path`` counts from the top of the repository that ``repo`` (default: the
    current directory) lies in. ``params`` is a glob over tensor names, or several: ``*`` matches
    dots too, and a name without wildcards also matches everything below it. Only the tensors that
    match are fetched and decoded, and each is checked by its digest.

    ``framework`` is ``numpy`` (bfloat16 and fp8 as in ``ml_dtypes``), ``torch``, ``jax``, or
    ``safetensors`` for the bytes of a safetensors file. Arrays are writable and their memory is
    their own.

    :class:`~git_theta.errors.UsageError` when there is no such revision, file or tensor;
    :class:`~git_theta.errors.ObjectMissing` for objects that no remote has.
    """
    kind = "numpy" if framework == "safetensors" else arrays.check(framework)
    with open(rev, path, kind, repo=repo) as model:
        found = model._tensors(params)
    if framework != "safetensors":
        return {name: arrays.to_framework(tensor, kind) for name, tensor in found.items()}
    return bytes(SafetensorsFormat().build(found, None))


def load_from_git(
    rev: Revision, path: StrPath, framework: str = "numpy", *, repo: RepoLike | None = None
) -> Any:
    """:func:`load` under the name it had in the first Git-Theta."""
    return load(rev, path, framework=framework, repo=repo)


def open(  # noqa: A001 - as gzip.open
    rev: Revision, path: StrPath, framework: Framework = "numpy", *, repo: RepoLike | None = None
) -> Checkpoint:
    """The model at ``path`` in revision ``rev`` as a mapping whose tensors are read when they are
    accessed; arguments as of :func:`load`.

    Close it, or use it in a ``with`` statement.
    """
    return Checkpoint(rev, path, arrays.check(framework), repo)


class Checkpoint(Mapping[str, Any]):
    """One version of a model: tensor names to arrays, each loaded anew at every access.

    Safe to use from several threads.

    ``specs`` has type and shape of each tensor without reading it.
    """

    def __init__(
        self,
        rev: Revision,
        path: StrPath,
        framework: Framework = "numpy",
        repo: RepoLike | None = None,
    ) -> None:
        self._framework = framework
        self._session = sessions.session(repo)
        try:
            self.path = sessions.from_top(self._session.repository, path)
            self._reader = Reader(
                self._session, manifest_at(self._session, sessions.revision(rev), self.path)
            )
        except BaseException:
            self.close()
            raise

    @property
    def format(self) -> str:
        """The file format that the model was committed in."""
        return self._reader.manifest.format

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Type (``dtype``) and ``shape`` of each tensor."""
        return self._reader.specs

    def __getitem__(self, name: str) -> Any:
        self._check(name)
        self._reader.fetch([name])
        return arrays.to_framework(self._reader.load(name), self._framework)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.specs)

    def __len__(self) -> int:
        return len(self._reader.specs)

    def __contains__(self, name: object) -> bool:
        return name in self._reader.specs

    def __repr__(self) -> str:
        return f"<{len(self)} tensors of {display(self.path)}>"

    def get_slice(self, name: str, verify: bool = True) -> Slice:
        """The tensor called ``name``, to be indexed: ``get_slice("word")[:10]`` holds no more than
        ten rows in memory.

        Rows are checked by the digest of the whole tensor, which takes decoding all of it. With
        ``verify=False`` only the parts of the tensor (of at most 1 MiB) that hold them are decoded,
        and an object that was damaged since it was fetched goes unnoticed.
        """
        self._check(name)
        return Slice(self._reader, name, self._framework, verify)

    def close(self) -> None:
        """End the git process that it reads from."""
        self._session.__exit__(None, None, None)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, name: str) -> None:
        if name not in self._reader.specs:
            raise KeyError(name)

    def _tensors(self, params: Params) -> dict[str, Tensor]:
        """The tensors that match, by all threads."""
        globs = [params] if isinstance(params, str) else list(params)
        names = [name for name in self._reader.specs if matches(name, globs)]
        if not names and self._reader.specs:
            shown = ", ".join(f"'{display(glob, 60)}'" for glob in globs)
            raise UsageError(
                f"no tensor of {display(self.path)} is called {shown}; it has"
                f" {display(next(iter(self)), 80)} and {len(self) - 1} more"
            )
        self._reader.fetch(names)
        if len(names) == 1:
            return {names[0]: self._reader.load(names[0])}
        return dict(zip(names, self._session.pool().map(self._reader.load, names), strict=True))


class Slice:
    """A tensor that is read when it is indexed, as numpy would index it."""

    def __init__(
        self, reader: Reader, name: str, framework: Framework, verify: bool = True
    ) -> None:
        self._reader = reader
        self._name = name
        self._framework = framework
        self._verify = verify

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole tensor's shape."""
        return self._reader.specs[self._name].shape

    @property
    def dtype(self) -> str:
        """The type's name in Git-Theta, such as ``f32`` or ``bf16``."""
        return self._reader.specs[self._name].dtype

    def __getitem__(self, index: Any) -> Any:
        self._reader.fetch([self._name])
        first, *rest = index if isinstance(index, tuple) and index else (index,)
        rows = _rows(first, self.shape)
        if rows is None:
            chosen = arrays.to_numpy(self._reader.load(self._name))[index]
        else:
            low, high, within = rows
            chosen = arrays.to_numpy(self._reader.rows(self._name, low, high, self._verify))[
                (within, *rest)
            ]
        tensor = Tensor.from_array(chosen.copy())
        return arrays.to_framework(tensor, self._framework)


def _rows(index: Any, shape: tuple[int, ...]) -> tuple[int, int, int | slice] | None:
    """The rows that ``index`` asks for, as first and last (exclusive), and the index among them;
    None where all are to be read.
    """
    size = shape[0] if shape else 0
    if isinstance(index, int) and not isinstance(index, bool):
        if not -size <= index < size:
            raise IndexError(f"index {index} is out of bounds for axis 0 with size {size}")
        return index % size, index % size + 1, 0
    if not isinstance(index, slice) or not size:
        return None
    chosen = range(size)[index]
    if not chosen:
        return 0, 0, slice(None)
    low = min(chosen[0], chosen[-1])
    return low, max(chosen[0], chosen[-1]) + 1, slice(None, None, chosen.step)
