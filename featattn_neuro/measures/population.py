"""Where does discriminability rise, if not at the gained layer? Cross-validated d' of every layer's population."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from featattn_neuro.arrays.linear_discriminant import population_dprime
from featattn_neuro.errors import DataError
from featattn_neuro.measures._join import layers_of, same_ids
from featattn_neuro.measures.selectivity import checked_activations, resolve_target, single_reduction
from featattn_neuro.schema import POPULATION


def population_selectivity(
    activations: xr.Dataset,
    target: str | int | Sequence[str | int] | xr.DataArray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """Cross-validated d' of the best linear read-out of all units of each layer.

    Parameters
    ----------
    activations : ACTIVATIONS, one reduction. target : as in `selectivity`.
    folds, seed : cross-validation; the folds depend on the seed and the target only, so two recordings of the same
        stimuli in the same order are read out on the same folds.

    Returns
    -------
    POPULATION: `dprime` ([task,] layer), SDs, signed, not biased upward by few stimuli (Hedges' correction); `n_units`;
        `status`: "ok", "single_class",
        "too_few" (fewer than 2 · folds stimuli in a class), "nonfinite", "constant". Stimuli are taken in the order of
        their ids, so the order of the recording does not matter.

    Notes
    -----
    `featattn_neuro.arrays.linear_discriminant`: Fisher 1936; shrinkage by Ledoit & Wolf 2004; correction by
    Hedges 1981.

    >>> import xarray as xr
    >>> unit = {"unit": ["a/0"], "layer": ("unit", ["a"]), "channel": ("unit", [0])}
    >>> shown = {"stimulus": [f"s{i}" for i in range(8)], "label": ("stimulus", list("ccccdddd"))}
    >>> responses = (("stimulus", "unit"), np.array([[9.0], [10], [9], [10], [0], [1], [0], [1]]))
    >>> float(population_selectivity(xr.Dataset({"response": responses}, unit | shown), "c", folds=2).dprime[0]) > 5
    True
    """
    recorded = single_reduction(checked_activations(activations))
    recorded = recorded.isel(stimulus=np.argsort(recorded["stimulus"].values.astype(str), kind="stable"))
    wanted = resolve_target(recorded, target)
    chosen = np.atleast_2d(wanted.values)
    responses = recorded["response"].transpose("unit", "stimulus").values.astype(np.float64)
    layer, names = recorded["layer"].values.astype(str), layers_of(recorded)
    table = np.full((len(chosen), len(names)), np.nan)
    status = np.full(table.shape, "ok", dtype="<U12")
    for row, task in enumerate(chosen):
        for column, name in enumerate(names):
            values = responses[layer == name]
            # the same seed for every layer: the same folds, so layers are compared on the same held-out stimuli
            table[row, column] = population_dprime(values, task, folds=folds, rng=np.random.default_rng([seed, row]))
            status[row, column] = _status(values, task, folds, table[row, column])
    dims = ("task", "layer") if wanted.ndim == 2 else ("layer",)
    pick = slice(None) if wanted.ndim == 2 else 0
    values = {
        "dprime": (dims, table[pick]),
        "status": (dims, status[pick]),
        "n_units": ("layer", [int((layer == name).sum()) for name in names]),
    }
    coordinates = {"layer": names} | ({"task": wanted["task"].values} if wanted.ndim == 2 else {})
    return POPULATION.check(xr.Dataset(values, coordinates, {"folds": int(folds), "seed": int(seed)}))


def population_change(
    gained: xr.Dataset,
    ungained: xr.Dataset,
    target: str | int | Sequence[str | int] | xr.DataArray,
    *,
    folds: int = 5,
    seed: int = 0,
) -> xr.Dataset:
    """`population_selectivity` with gains, without, and the difference, on the same stimuli and folds.

    Parameters
    ----------
    gained, ungained : ACTIVATIONS of the same units and stimuli, in any order, recorded with and without `with_gains`.
        Gains of one task: give the target of that task.
    target, folds, seed : as in `population_selectivity`.

    Returns
    -------
    POPULATION with `dprime` (with gains), `ungained` and `change`. At the gained layer itself the best linear read-out
    is unchanged by positive gains (up to shrinkage); a rise can only lie downstream.
    """
    for dim in ("stimulus", "unit"):
        for one in (gained, ungained):
            if dim not in getattr(one, "coords", {}):
                raise DataError(f"wanted recordings with ids along {dim!r}; came one without; record with `record`")
        same_ids(
            ungained[dim].values, gained[dim].values, what=dim, wanted_name="the un-gained recording",
            came_name="the gained one",
        )  # fmt: skip
    found = population_selectivity(gained, target, folds=folds, seed=seed)
    before = population_selectivity(ungained, target, folds=folds, seed=seed).sel(layer=found["layer"].values)
    return POPULATION.check(found.assign(ungained=before["dprime"], change=found["dprime"] - before["dprime"]))


def _status(values: np.ndarray, task: np.ndarray, folds: int, found: float) -> str:
    n = min(int(task.sum()), int((~task).sum()))
    if n == 0:
        return "single_class"
    if n < 2 * folds:
        return "too_few"
    if not np.isfinite(values).all():
        return "nonfinite"
    return "ok" if np.isfinite(found) else "constant"
