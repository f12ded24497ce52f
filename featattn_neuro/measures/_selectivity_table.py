"""The arithmetic of a selectivity table, a block of units at a time, so that recordings may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.arrays import counting, discrimination, intervals, multiplicity
from featattn_neuro.arrays.area_interval import adjusted_area_interval
from featattn_neuro.arrays.class_selectivity import eta_squared
from featattn_neuro.arrays.discrimination import Discrimination
from featattn_neuro.arrays.permutation import Relabelled, largest_p, relabel
from featattn_neuro.errors import DataError
from featattn_neuro.measures.contrasts import Contrasts

FAMILIES = ("all", "task", "layer", "task_layer")
BLOCK_BYTES = 256_000_000
"""Responses that are read at a time from a recording that was opened lazily."""
FAST_FROM = 3
"""From so many tasks over labels, classes are counted once instead of once per task."""


@dataclass(frozen=True)
class Table:
    """variables : name to (dims, values). class_variances : (2, tasks, units). wanted : boolean (task, stimulus)."""

    variables: dict[str, tuple[Any, np.ndarray]]
    class_variances: np.ndarray
    wanted: xr.DataArray
    attributes: dict[str, str | int]


@dataclass(frozen=True)
class _Block:
    """Some units over the stimuli that were recorded for all of them."""

    units: np.ndarray
    values: np.ndarray  # (units, n)
    seen: np.ndarray | None  # boolean (n,); None = all


def measure_blocks(
    recorded: xr.Dataset,
    tasks: Contrasts,
    *,
    neural: bool,
    permutations: int,
    seed: int,
    family: str | None,
    correction: str,
    interval: str | None,
) -> Table:
    """All columns of a table; see `selectivity`. With `neural`, NaN = not recorded, left out unit by unit."""
    n_units, n_tasks = recorded.sizes["unit"], tasks.wanted.shape[0]
    columns = _Columns(n_tasks, n_units)
    numbers, names = _families(recorded, tasks, family)
    tests: list[tuple[np.ndarray, Relabelled]] = []
    for block in _blocks(recorded, neural):
        among = _among(tasks, block.seen)
        found = _discriminate(block, tasks, among)
        columns.add(block, found)
        columns.summarise(block, recorded["stimulus"].values)
        if interval is not None:
            columns.interval(block, tasks, among, found, interval, seed)
        if tasks.codes is not None:
            columns.omnibus(block, tasks)
        if permutations:
            tests.append((block.units, _permute(block, tasks, among, permutations, seed, numbers)))
    columns.floors(tests)
    attributes: dict[str, str | int] = {}
    if family is not None:
        attributes = {"family": family, "correction": correction}
        columns.p_values(tests, numbers, names, correction)
    if interval is not None:
        attributes["dprime_interval"] = interval
    wanted = xr.DataArray(tasks.wanted, {"stimulus": recorded["stimulus"].values}, ("task", "stimulus"))
    if tasks.names is not None:
        wanted = wanted.assign_coords(task=tasks.names)
    return Table(columns.variables(tasks.names is not None, neural), columns.spread, wanted, attributes)


def _blocks(recorded: xr.Dataset, neural: bool) -> Iterator[_Block]:
    response = recorded["response"].transpose("stimulus", "unit")
    n, units = response.shape
    step = units
    if response.chunks is not None:
        step = max(1, BLOCK_BYTES // max(1, n * response.dtype.itemsize))
        if step < units and step > 16:
            step = step // 16 * 16
    for start in range(0, units, max(step, 1)):
        places = np.arange(start, min(start + step, units))
        values = np.asarray(response[:, start : start + step].values).T
        missing = np.isnan(values) if neural else None
        if missing is None or not missing.any():
            yield _Block(places, values, None)
            continue
        patterns, which = np.unique(~missing, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            mine = which.ravel() == number
            yield _Block(places[mine], values[mine], None if pattern.all() else pattern)


def _among(tasks: Contrasts, seen: np.ndarray | None) -> np.ndarray | None:
    if seen is None:
        return tasks.among
    return np.broadcast_to(seen, tasks.wanted.shape) & (True if tasks.among is None else tasks.among)


def _discriminate(block: _Block, tasks: Contrasts, among: np.ndarray | None) -> Discrimination:
    """(tasks, units), by classes where many tasks are made of few of them."""
    if tasks.codes is None or tasks.wanted.shape[0] < FAST_FROM:
        return discrimination.discriminate(block.values, tasks.wanted, among=among)
    codes = tasks.codes if block.seen is None else np.where(block.seen, tasks.codes, -1)
    sums = counting.class_sums(block.values, codes, len(tasks.classes))
    if tasks.pairs:
        first, second = (np.array(side) for side in zip(*tasks.pairs, strict=True))
        both = [
            np.stack([one[second], one[first]], axis=1)
            for one in (sums.count, sums.mean, sums.squares, sums.low, sums.high)
        ]
        counts = counting.pair_counts(block.values, codes, list(tasks.pairs), len(tasks.classes))
        return discrimination.discrimination_of(counting.ClassSums(*both), counts)
    rows = np.array(tasks.rows)
    counts = counting.one_versus_rest_counts(block.values, codes, len(tasks.classes)).part(rows)
    return discrimination.discrimination_of(counting.against_rest(sums).part(rows), counts)


def _permute(
    block: _Block, tasks: Contrasts, among: np.ndarray | None, permutations: int, seed: int, numbers: np.ndarray
) -> Relabelled:
    # the same seed in every block: units of all blocks see the same relabellings
    return relabel(
        block.values, tasks.wanted, permutations=permutations, rng=np.random.default_rng(seed), among=among,
        family=numbers[:, block.units],
    )  # fmt: skip


def _families(recorded: xr.Dataset, tasks: Contrasts, family: str | None) -> tuple[np.ndarray, list[str]]:
    """Number of the family of each test (tasks, units), and the families' names."""
    layers, layer = np.unique(recorded["layer"].values.astype(str), return_inverse=True)
    titles = tasks.names or ["target"]
    task = np.arange(len(titles))[:, None]
    shape = (len(titles), layer.size)
    if family in (None, "all"):
        return np.zeros(shape, dtype=np.intp), ["all tasks and units"]
    if family == "task":
        return np.broadcast_to(task, shape), [f"task {name}" for name in titles]
    if family == "layer":
        return np.broadcast_to(layer, shape), [f"layer {name}" for name in layers]
    numbers = task * layers.size + layer
    return numbers, [f"task {name}, layer {one}" for name in titles for one in layers]


class _Columns:
    """Columns (tasks, units) that are filled block by block."""

    def __init__(self, tasks: int, units: int) -> None:
        self.shape = (tasks, units)
        self.table: dict[str, np.ndarray] = {}
        self.units: dict[str, np.ndarray] = {}
        self.counts = np.zeros((2, tasks, units), dtype=np.int64)
        self.spread = np.full((2, tasks, units), np.nan)
        self.status = np.full(self.shape, "ok", dtype="<U12")
        self.names, self.size = np.zeros(0), np.zeros(0, dtype=np.int64)

    def put(self, name: str, units: np.ndarray, values: np.ndarray) -> None:
        self.table.setdefault(name, np.full(self.shape, np.nan))[:, units] = values

    def put_unit(self, name: str, units: np.ndarray, values: np.ndarray, fill: Any = np.nan) -> None:
        self.units.setdefault(name, np.full(self.shape[1], fill, dtype=None if fill is np.nan else object))[units] = (
            values
        )

    def add(self, block: _Block, found: Discrimination) -> None:
        low, high = adjusted_area_interval(
            found.auc, found.target_placement_variance, found.distractor_placement_variance,
            found.n_target[:, None], found.n_distractor[:, None],
        )  # fmt: skip
        for name, values in (("dprime", found.dprime), ("auc", found.auc), ("auc_low", low), ("auc_high", high)):
            self.put(name, block.units, values)
        self.status[:, block.units] = found.status
        self.counts[:, :, block.units] = np.stack([found.n_target, found.n_distractor])[:, :, None]
        self.spread[:, :, block.units] = found.target_variance, found.distractor_variance

    def summarise(self, block: _Block, ids: np.ndarray) -> None:
        """Mean, SD, zeros and what is not finite, over all stimuli that were recorded."""
        inside = np.ones(ids.size, dtype=bool) if block.seen is None else block.seen
        sums = counting.class_sums(block.values, np.where(inside, 0, -1), 1)
        self.put_unit("mean_response", block.units, sums.mean[0])
        self.put_unit("sd_response", block.units, np.sqrt(sums.variance()[0]))
        self.put_unit("zero_fraction", block.units, (block.values == 0).sum(axis=1) / max(int(inside.sum()), 1))
        bad = ~np.isfinite(block.values) & inside
        count = bad.sum(axis=1)
        self.put_unit("n_nonfinite", block.units, count)
        first = np.where(count > 0, ids.astype(str)[bad.argmax(axis=1)], "")
        self.put_unit("first_nonfinite", block.units, first, fill="")

    def interval(
        self, block: _Block, tasks: Contrasts, among: np.ndarray | None, found: Discrimination, kind: str, seed: int
    ) -> None:
        if kind == "noncentral_t":
            ends = intervals.noncentral_t_interval(
                found.dprime, found.n_target[:, None], found.n_distractor[:, None],
                found.target_variance, found.distractor_variance,
            )  # fmt: skip
            self.put("dprime_low", block.units, ends.low)
            self.put("dprime_high", block.units, ends.high)
            return
        low, high = np.full((2, *found.dprime.shape), np.nan)
        for task, target in enumerate(tasks.wanted):
            part = np.ones(target.size, dtype=bool) if among is None else among[task]
            try:
                low[task], high[task] = intervals.bootstrap_interval(
                    block.values[:, part], target[part], rng=np.random.default_rng(seed)
                )
            except ValueError as error:
                name = "" if tasks.names is None else f" of task {tasks.names[task]!r}"
                raise DataError(f"the bootstrap interval{name} cannot be made: {error}") from error
        self.put("dprime_low", block.units, low)
        self.put("dprime_high", block.units, high)

    def omnibus(self, block: _Block, tasks: Contrasts) -> None:
        assert tasks.codes is not None
        part = np.ones(tasks.codes.size, dtype=bool) if block.seen is None else block.seen
        codes = tasks.codes[part]
        share = np.full(block.units.size, np.nan)
        if np.unique(codes).size > 1:
            share = eta_squared(block.values if part.all() else block.values[:, part], codes).eta_squared
        self.put_unit("eta_squared", block.units, share)

    def floors(self, tests: list[tuple[np.ndarray, Relabelled]]) -> None:
        for units, test in tests:
            for name, values in zip(("dprime_floor", "auc_floor"), test.floors(), strict=True):
                self.put(name, units, values)

    def p_values(
        self, tests: list[tuple[np.ndarray, Relabelled]], numbers: np.ndarray, names: list[str], correction: str
    ) -> None:
        """Raw and corrected p, with the name and the size of each test's family."""
        places = np.concatenate([units for units, _ in tests])
        for which, measure in enumerate(("dprime", "auc")):
            for units, test in tests:
                self.put(f"{measure}_p", units, test.p()[which])
            raw = self.table[f"{measure}_p"]
            corrected = np.full(self.shape, np.nan)
            if correction == "max":
                corrected[:, places] = largest_p([test for _, test in tests], which)
            else:
                for number in np.unique(numbers):
                    mine = numbers == number
                    corrected[mine] = multiplicity.adjust(raw[mine], correction)
            self.table[f"{measure}_p_corrected"] = corrected
        tested = np.isfinite(self.table["auc_p"])
        sizes = np.bincount(numbers[tested], minlength=len(names))
        self.size = sizes[numbers]
        self.names = np.array(names, dtype=str)[numbers]

    def variables(self, several: bool, neural: bool) -> dict[str, tuple[Any, np.ndarray]]:
        """Labelled; without the task axis where there is one unnamed task."""
        dims = ("task", "unit") if several else ("unit",)
        keep = slice(None) if several else 0
        found: dict[str, tuple[Any, np.ndarray]] = {name: (dims, one[keep]) for name, one in self.table.items()}
        found["status"] = (dims, self.status[keep])
        broken = np.isfinite(self.table["auc"]) & np.isnan(self.table["auc_low"])
        # the area is defined with constant classes too: then the interval has its own reason
        found["interval_status"] = (dims, np.where(broken, "constant", self.status)[keep])
        if self.names.dtype.kind == "U":
            found["family"] = (dims, self.names[keep])
            found["family_size"] = (dims, self.size[keep])
        for name, one in zip(("n_target", "n_distractor"), self.counts, strict=True):
            alike = bool((one == one[:, :1]).all())
            found[name] = (dims[:-1], one[:, 0][keep]) if alike else (dims, one[keep])
        for name, one in self.units.items():
            kind = {"n_nonfinite": np.int64, "first_nonfinite": str}.get(name, np.float64)
            found[name] = ("unit", one.astype(kind))
        return found
