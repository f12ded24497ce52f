"""Compiled kernels, lazily: numba is imported and a function compiled when it is first called, and kept on disk.

Kernels let go of Python's lock and start no threads of their own: they can run in forked workers and beside each other.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

ENGINES = ("numba", "numpy")
"""How a kernel is computed on the CPU: compiled, or in plain NumPy. Both give the same numbers."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled by numba at its first call; `__wrapped__` is the plain one.

    >>> @compiled
    ... def double(x):
    ...     return 2 * x
    >>> double.__wrapped__(3)
    6
    """

    @functools.cache
    def build() -> Callable[..., Any]:
        import numba

        try:
            return numba.njit(cache=True, nogil=True)(function)
        except RuntimeError:  # no place to keep compiled code: neither beside the source nor in the user's cache
            return numba.njit(nogil=True)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return build()(*arguments)

    return call


def check_engine(engine: str) -> str:
    """`engine` if it can be used, otherwise an error that says what to do."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}; came {engine!r}")
    if engine == "numba" and importlib.util.find_spec("numba") is None:
        raise ValueError("engine 'numba' needs numba, which is not installed; install it, or pass engine='numpy'")
    return engine
