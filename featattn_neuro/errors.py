"""Errors that a user can act on: one base class, few subclasses.

Every message says what was wanted, what came, and what to do. The command line prints the message alone, without a
traceback, and exits with status 2; anything that is not a `FeatattnError` is our mistake and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FeatattnError(Exception):
    """Base of all errors that are the input's fault, not the package's."""


class SchemaError(FeatattnError):
    """A Dataset is not of the kind that was asked for."""


class DataError(FeatattnError):
    """Stimuli, labels, splits or responses cannot be used as they are."""


class KernelError(DataError, ValueError):
    """Numbers given to a public kernel cannot be used; a `ValueError` too, which is what kernels are known to raise."""


class UnreadableError(DataError):
    """One stimulus cannot be read; `corrupt="skip"` leaves it out, and nothing else."""


class ConfigError(FeatattnError):
    """A configuration, manifest entry or argument names something that does not exist."""


class StoreError(FeatattnError):
    """A file or folder cannot be read, written or trusted."""


def choose(wanted: str, table: Iterable[str], what: str) -> str:
    """Return `wanted` if it is in `table`; otherwise raise `ConfigError` that prints the table and the close match.

    >>> choose("mean", ["mean", "max"], "reduction")
    'mean'
    >>> choose("maen", ["mean", "max"], "reduction")
    Traceback (most recent call last):
    featattn_neuro.errors.ConfigError: unknown reduction 'maen'; choose one of: mean, max (did you mean 'mean'?)
    """
    names = list(table)
    if wanted in names:
        return wanted
    close = difflib.get_close_matches(str(wanted), names, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    shown = ", ".join(names[:40]) + (f", … ({len(names)} in all)" if len(names) > 40 else "")
    raise ConfigError(f"unknown {what} {wanted!r}; choose one of: {shown}{hint}")
