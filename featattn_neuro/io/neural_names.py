"""Names of stimuli in a recording become the ids of the images, so that neurons and networks can be joined."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError, choose
from featattn_neuro.io.stimulus_set import Stimuli
from featattn_neuro.schema import NEURAL


def with_stimulus_ids(neural: xr.Dataset, stimuli: Stimuli, *, extra: str = "error") -> xr.Dataset:
    """A recording whose trials name images by file, with the ids of those images instead.

    Parameters
    ----------
    neural : NEURAL; its stimuli are ids of `stimuli` already, or paths, file names, or file names without suffix.
    stimuli : the images that were shown, with `path`.
    extra : trials whose stimulus is none of the images: "error", or "drop" them.

    Returns
    -------
    NEURAL with `stimulus` = ids; the names are kept as `label` where there was none.

    Raises
    ------
    DataError : a name that fits no image or several, images without path. ConfigError : another value of extra.

    >>> images = np.zeros((2, 1, 2, 2), np.float32)
    >>> two = Stimuli(id=np.array(["i", "j"]), images=images, path=np.array(["a.png", "b.png"]))
    >>> trials = {"trial": [0], "unit": ["u"], "stimulus": ("trial", ["b"])}
    >>> with_stimulus_ids(xr.Dataset({"response": (("trial", "unit"), [[1.0]])}, trials), two).stimulus.values.tolist()
    ['j']
    """
    choose(extra, ("error", "drop"), "value of extra")
    checked = NEURAL.check(neural)
    names = checked["stimulus"].values.astype(str)
    if set(names) <= set(stimuli.id.tolist()):
        return checked
    if stimuli.path is None:
        raise DataError(
            f"the recording names stimuli such as {str(names[0])!r}, and the images of {stimuli.name} have "
            "neither these "
            "ids nor file names; load the images from files"
        )
    table = _by_name(stimuli)
    wanted = list(dict.fromkeys(names.tolist()))
    unknown = [one for one in wanted if one not in table]
    twice = [one for one in wanted if len(table.get(one, ())) > 1]
    if twice:
        raise DataError(
            f"{twice[0]!r} fits {len(table[twice[0]])} images of {stimuli.name}; name stimuli by their paths in the set"
        )
    if unknown and (extra == "error" or len(unknown) == len(wanted)):
        raise DataError(
            f"{len(unknown)} of {len(wanted)} stimuli of the recording fit no image of {stimuli.name} (first: "
            f"{unknown[0]!r}; images are called like {str(stimuli.path[0])!r}); rename them, or leave those trials out "
            "with extra='drop' (--extra drop)"
        )
    known = np.isin(names, unknown, invert=True)
    found = checked.isel(trial=np.flatnonzero(known))
    ids = np.array([next(iter(table[one])) for one in names[known].tolist()])
    if "label" not in found.coords and (ids != names[known]).any():
        found = found.assign_coords(label=("trial", names[known]))
    return NEURAL.check(found.assign_coords(stimulus=("trial", ids)))


def _by_name(stimuli: Stimuli) -> dict[str, set[str]]:
    """Ids by whatever an image may be called: its id, its path, its file name, its file name without suffix."""
    table: dict[str, set[str]] = {}
    assert stimuli.path is not None
    for path, one in zip(stimuli.path.tolist(), stimuli.id.tolist(), strict=True):
        for name in {one, path, PurePath(path).name, PurePath(path).stem}:
            table.setdefault(name, set()).add(one)
    return table
