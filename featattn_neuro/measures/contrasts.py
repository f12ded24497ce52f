"""What is compared with what: a label, several, every label against the rest, every pair, or contrasts with names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.measures._join import aligned
from featattn_neuro.schema import CONSTITUENT_SEPARATOR

Labels = str | int
Target = Labels | Sequence[Labels] | Mapping[str, tuple[Any, Any]] | xr.DataArray | None


@dataclass(frozen=True)
class Contrasts:
    """Tasks in the order of the recording's stimuli.

    Parameters
    ----------
    names : of the tasks; None = one, without a dimension.
    wanted : boolean (tasks, n), targets. among : boolean (tasks, n), stimuli that take part; None = all.
    codes : class of each stimulus (n,), where each has one label; classes : their names. With codes, `rows` says which
        classes are the tasks (against the rest), or `pairs` which are compared.
    """

    names: list[str] | None
    wanted: np.ndarray
    among: np.ndarray | None = None
    codes: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


def contrasts(recorded: xr.Dataset, target: Target, *, pairs: bool = False) -> Contrasts:
    """Resolve what a user means by `target` (see `selectivity`) against the labels and ids of a recording."""
    if pairs:
        if isinstance(target, xr.DataArray | Mapping | str | int | np.integer):
            raise ConfigError(
                "pairs=True compares every two of several labels; "
                f"came target of type {type(target).__name__}; give a list of labels, or none for all"
            )
        return _all_pairs(recorded, target)
    if isinstance(target, Mapping):
        return _named(recorded, target)
    if target is None or (isinstance(target, list | tuple) and target):
        return _one_versus_rest(recorded, target)
    found = resolve_target(recorded, target)
    names = [str(name) for name in found["task"].values] if found.ndim == 2 else None
    return Contrasts(names, np.atleast_2d(found.values))


def _codes(recorded: xr.Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    names, codes = np.unique(_labels(recorded).values.astype(str), return_inverse=True)
    return codes, tuple(names.tolist())


def _one_versus_rest(recorded: xr.Dataset, target: Sequence[Labels] | None) -> Contrasts:
    codes, classes = _codes(recorded)
    composite = any(CONSTITUENT_SEPARATOR in name for name in classes)
    parts = sorted({part for name in classes for part in name.split(CONSTITUENT_SEPARATOR)})
    names = parts if target is None else [str(one) for one in target]
    if len(parts) < 2:
        raise DataError(f"one label against the rest needs two labels; all stimuli are {parts[0]!r}; record others")
    wanted = targets_from_labels(_labels(recorded), names).values
    if composite or any(name not in classes for name in names):
        return Contrasts(names, wanted)
    rows = tuple(classes.index(name) for name in names)
    return Contrasts(names, wanted, None, codes, classes, rows=rows)


def _all_pairs(recorded: xr.Dataset, target: Sequence[Labels] | None) -> Contrasts:
    codes, classes = _codes(recorded)
    if any(CONSTITUENT_SEPARATOR in name for name in classes):
        raise DataError(
            "pairs of labels need stimuli with one label each; came composites; compare a label with the rest instead"
        )
    names = list(classes) if target is None else [choose(str(one), classes, "label") for one in target]
    if len(dict.fromkeys(names)) != len(names) or len(names) < 2:
        raise ConfigError(f"pairs need two or more different labels; came {names}")
    pairs = tuple((classes.index(a), classes.index(b)) for a, b in combinations(names, 2))
    wanted = np.stack([codes == one for one, _ in pairs])
    among = np.stack([(codes == one) | (codes == other) for one, other in pairs])
    titles = [f"{classes[one]} vs {classes[other]}" for one, other in pairs]
    return Contrasts(titles, wanted, among, codes, classes, pairs=pairs)


def _named(recorded: xr.Dataset, target: Mapping[str, tuple[Any, Any]]) -> Contrasts:
    if not target:
        raise ConfigError("no contrast was given; wanted {name: (target labels, distractor labels)}")
    labels = _labels(recorded)
    wanted, among = [], []
    for name, sides in target.items():
        if not isinstance(sides, tuple | list) or len(sides) != 2:
            raise ConfigError(f"contrast {name!r} must be a pair (target labels, distractor labels); came {sides!r}")
        one, other = (
            targets_from_labels(labels, label_names(side, f"each side of contrast {name!r}")).values.any(0)
            for side in sides
        )
        if (one & other).any():
            first = str(recorded["stimulus"].values[(one & other).argmax()])
            raise DataError(
                f"contrast {name!r} has {int((one & other).sum())} stimuli on both sides (first: {first!r}); "
                "give labels that do not overlap"
            )
        wanted.append(one)
        among.append(one | other)
    return Contrasts([str(name) for name in target], np.stack(wanted), np.stack(among))


def label_names(given: Any, what: str) -> list[str]:
    """One label, or several, as text; `what` says in the complaint where they were wanted.

    >>> label_names(np.int64(3), "target"), label_names(("cat", 4), "target")
    (['3'], ['cat', '4'])
    """
    if isinstance(given, str | int | np.integer):
        return [str(given)]
    try:
        names = [str(one) for one in given]
    except TypeError:  # nothing to go through
        names = []
    if not names:
        raise ConfigError(f"{what} must be one label or several; came {given!r}; name labels of the recording")
    return names


def targets_from_labels(labels: xr.Dataset | xr.DataArray, tasks: Iterable[str | int]) -> xr.DataArray:
    """Boolean (task, stimulus): which stimuli show each class; a composite labelled "a|b" shows a and b.

    Parameters
    ----------
    labels : a Dataset with the coordinate `label` over `stimulus`, or that DataArray itself.
    tasks : class names, which become the names of the tasks. Each must occur.

    >>> import xarray as xr
    >>> shown = xr.DataArray(["cat|dog", "cow"], {"stimulus": ["x", "y"]}, "stimulus")
    >>> targets_from_labels(shown, ["dog", "cow"]).values.tolist()
    [[True, False], [False, True]]
    """
    texts = _labels(labels) if isinstance(labels, xr.Dataset) else labels
    if texts.dims != ("stimulus",) or "stimulus" not in texts.coords:
        raise DataError(f"labels must be over 'stimulus' with stimulus ids; came dimensions {texts.dims}")
    parts = [set(str(text).split(CONSTITUENT_SEPARATOR)) for text in texts.values]
    known = sorted({*set().union(*parts), *(str(text) for text in texts.values)})
    names = [choose(str(task), known, "label") for task in tasks]
    values = [
        [name in part or name == str(text) for part, text in zip(parts, texts.values, strict=True)] for name in names
    ]
    coordinates = {"task": names, "stimulus": texts["stimulus"].values}
    return xr.DataArray(np.array(values, dtype=bool), coordinates, ("task", "stimulus"), name="target")


def _labels(recorded: xr.Dataset) -> xr.DataArray:
    if "label" not in recorded.coords:
        raise DataError(
            "a label value was given as target, but the activations have no coordinate 'label'; "
            "record labelled stimuli, or pass a boolean DataArray over 'stimulus'"
        )
    return recorded["label"]


def resolve_target(recorded: xr.Dataset, target: Target) -> xr.DataArray:
    """Boolean DataArray over (stimulus) or (task, stimulus) in the order of the recording."""
    if isinstance(target, str | int | np.integer) and not isinstance(target, bool):
        return targets_from_labels(_labels(recorded), [str(target)]).isel(task=0, drop=True)
    if isinstance(target, list | tuple) and target:
        return targets_from_labels(_labels(recorded), [str(one) for one in target])
    if not isinstance(target, xr.DataArray):
        raise DataError(
            "target must be a label value, several of them, or a boolean DataArray over 'stimulus' or "
            f"('task', 'stimulus'), which is matched by stimulus id; came {type(target).__name__}"
        )
    if set(target.dims) not in ({"stimulus"}, {"task", "stimulus"}) or target.dtype != bool:
        raise DataError(
            "target must be boolean over 'stimulus' or ('task', 'stimulus'); came "
            f"{target.dtype} over {target.dims}; compare it with a value, or rename its dimensions"
        )
    if "task" in target.dims and "task" not in target.coords:
        raise DataError("target has a dimension 'task' without names; give it the coordinate 'task'")
    target = target.drop_vars([c for c in target.coords if c not in ("task", "stimulus")])
    target = target if "task" in target.dims else target.drop_vars("task", errors="ignore")
    ids = recorded["stimulus"].values
    result = aligned(target, "stimulus", ids, name="the target", to="the activations").transpose(..., "stimulus")
    if result.ndim == 2:
        result = result.assign_coords(task=result["task"].values.astype(str))
    return result
