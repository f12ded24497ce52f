"""Names that columns of stimulus metadata may have."""

from __future__ import annotations

from featattn_neuro.errors import DataError
from featattn_neuro.schema.recordings import ACTIVATIONS
from featattn_neuro.schema.saliency import SALIENCY


def metadata_name(name: object) -> str:
    """`name` if a column of stimulus metadata can be called so.

    Not: what is no text, is empty, begins with a dot or holds a slash (no name in a file), or means something else in
    a recording or in saliency maps, whose coordinates metadata become.

    Raises
    ------
    DataError : it cannot; the message says why.

    >>> metadata_name("viewing distance (cm)")
    'viewing distance (cm)'
    >>> metadata_name("rank")
    Traceback (most recent call last):
    featattn_neuro.errors.DataError: name 'rank' of a metadata column is taken: stores use it; rename the column
    """
    if not isinstance(name, str) or not name.strip() or name.startswith(".") or "/" in name or not name.isprintable():
        raise DataError(
            f"wanted names of metadata columns as text without a slash, not beginning with a dot; came {name!r}; "
            "rename the column"
        )
    for kind in (ACTIVATIONS, SALIENCY):
        for table in (kind.variables, kind.coordinates):
            if name in table and table[name].dims != ("stimulus",):
                raise DataError(
                    f"name {name!r} of a metadata column is taken: {table[name].meaning}; rename the column"
                )
    if name in _STORE_NAMES or name.startswith(_STORE_PREFIX):
        raise DataError(f"name {name!r} of a metadata column is taken: stores use it; rename the column")
    return name


_STORE_PREFIX = "response_"
_STORE_NAMES = ("task", "rank", "skip", "zarr.json", "chunks.json", "progress.jsonl", "state.json")
"""Dimensions beside `stimulus` and `unit`, and what lies beside the coordinates in a stored recording."""
