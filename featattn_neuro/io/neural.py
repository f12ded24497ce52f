"""The one door to recorded neurons: whatever a laboratory keeps its responses in becomes a NEURAL Dataset.

The parts are `neural_nwb` (NWB, pynapple), `neural_tables` (long tables), `neural_arrays` (.npy, .npz), `neural_mat`,
`neural_netcdf` (netCDF and zarr, ours and brainio's), `neural_sets` (sets of the manifest); `neural_columns` says which
column means what, `neural_windows` counts spikes, `neural_checks` says what is wrong with a recording.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from featattn_neuro.errors import ConfigError, choose
from featattn_neuro.io.neural_arrays import read_npy, read_npz
from featattn_neuro.io.neural_checks import NeuralDataWarning
from featattn_neuro.io.neural_columns import NeuralOptions
from featattn_neuro.io.neural_mat import read_mat_neural
from featattn_neuro.io.neural_netcdf import from_labelled, read_labelled
from featattn_neuro.io.neural_nwb import read_nwb, read_pynapple
from featattn_neuro.io.neural_sets import neural_sets, read_dissimilarity, read_set
from featattn_neuro.io.neural_tables import read_table

__all__ = ["NeuralDataWarning", "read_dissimilarity", "read_neural"]

_COLUMNS = ("stimulus_column", "columns", "sentinels")
_SPIKES = ("window", "baseline", "response_units", "event", "trials")
_ARRAYS = ("response_units", "dims", "variable")

_FORMATS: dict[str, tuple[Callable[[Path, NeuralOptions], xr.Dataset], tuple[str, ...], str]] = {
    ".nwb": (read_nwb, (*_COLUMNS, *_SPIKES), "is an NWB file"),
    ".csv": (read_table, (*_COLUMNS, "response_units"), "has counts already"),
    ".parquet": (read_table, (*_COLUMNS, "response_units"), "has counts already"),
    ".mat": (read_mat_neural, (*_COLUMNS, *_ARRAYS), "has counts already"),
    ".npy": (read_npy, (*_COLUMNS, "response_units", "dims"), "has counts already"),
    ".npz": (read_npz, (*_COLUMNS, *_ARRAYS), "has counts already"),
    ".nc": (read_labelled, ("response_units",), "has counts already, and names its dimensions"),
    ".zarr": (read_labelled, ("response_units",), "has counts already, and names its dimensions"),
}
"""By suffix: reader, the options that it has a use for, and why it has none for the others."""


def read_neural(
    source: Any,
    *,
    stimulus_column: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    window: tuple[float, float] | None = None,
    baseline: tuple[float, float] | None = None,
    response_units: str | None = None,
    event: str | None = None,
    trials: Any = None,
    variable: str | None = None,
    dims: Sequence[str] | None = None,
    sentinels: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
) -> xr.Dataset:
    """Read responses of recorded neurons.

    Parameters
    ----------
    source : one of
        a neural set of the manifest: "disparity_v1v2" (spike counts), "disparity_mt" (spikes/s), "zhang_desimone_it"
        (spike counts), "v4_210325" (spike counts);
        ".nwb": spikes of the units table, counted in a window of each trial;
        ".csv", ".parquet" or a pandas DataFrame in long form, one row per trial and unit, with columns trial, unit,
        stimulus, response and, where known, condition, label, repetition, session, level, orientation, direction (of
        motion: degrees, period 360), spatial_frequency, phase, contrast (per trial), area, subject (per unit); trials
        are numbered within a session, a unit that appears in several sessions is one neuron;
        ".mat" (versions 5 to 7.3) and ".npz": an array of responses, and arrays for what is known of trials and units;
        ".npy" with the tables NAME.trials.csv (or NAME.stimuli.csv) and NAME.units.csv beside it;
        ".nc" and ".zarr": kind NEURAL, a brainio assembly (presentation × neuroid), or a variable over (trial, unit);
        an xarray object like these; a pynapple TsGroup, with its IntervalSet as `trials`.
    stimulus_column : column of the trials that names the stimulus, if none is called stimulus; several are joined
        by "/". Where it is needed and not given, the likely columns are listed and nothing is read.
    columns : {coordinate: column} for unit and what else is listed above, where the source calls it otherwise.
    window : spike times only: spikes from … to … ms after `event`, the end not included. None = from the event to the
        end of the trial ("zhang_desimone_it": 100 to 500 ms).
    baseline : spike times only: window whose mean rate is subtracted; None = nothing is subtracted.
    response_units : "spikes" or "spikes/s": for spike times what to compute (None: spikes), for tables and arrays what
        they hold (None: "as in the table").
    event : spike times only: column of the trials that holds the time from which windows are counted, in s; None =
        start_time.
    trials : NWB: name of the table of intervals that holds the trials, None = trials. pynapple: the IntervalSet.
    variable : .mat and .npz: name of the array of responses ("data.resp" for a field), if it is not called response.
    dims : .mat, .npy and .npz: names of the axes of the responses, ("trial", "unit") or ("stimulus", "repeat", "unit")
        in some order; None = (trial, unit).
    sentinels : numbers in the stimulus or level column that are codes, no values; their trials are left out. Codes of
        other coordinates (orientation, phase, …) are said by name: {"stimulus": codes, "phase": codes, …}. None: an
        error if some look like codes; () keeps them.

    Returns
    -------
    NEURAL: response(trial, unit), NaN where a unit was not recorded; attributes `units`, `window`, `baseline`,
    `source`,
    and `found` (what the reader noticed, also given as `NeuralDataWarning`).

    Raises
    ------
    ConfigError
        Unknown set, unknown file type, or an option that the source has no use for.
    DataError
        No column for the stimulus, no units, no trials, ids that come twice, times that cannot be seconds, suspected
        codes, a trial with two stimuli, text for a number.
    StoreError, SchemaError
        A set or file that is missing, damaged or of another kind.

    Examples
    --------
    >>> read_neural("nowhere.csv")
    Traceback (most recent call last):
    featattn_neuro.errors.StoreError: wanted a table of responses; there is none at 'nowhere.csv'; check the path
    >>> table = pd.DataFrame({"trial": [0, 1], "unit": "u", "image": ["a", "b"], "response": [3, 5]})
    >>> read_neural(table, stimulus_column="image").response.values.tolist()
    [[3.0], [5.0]]
    """
    options = NeuralOptions(
        stimulus_column=stimulus_column, columns=dict(columns or {}), window=window, baseline=baseline,
        response_units=response_units, event=event, trials=trials, variable=variable, dims=dims, sentinels=sentinels,
    )  # fmt: skip
    if not isinstance(source, str | os.PathLike):
        return _from_object(source, options)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in _FORMATS:
        reader, used, why = _FORMATS[suffix]
        return reader(path, options.only(*used, source=str(source), why=why))
    if suffix or os.sep in str(source):
        known = ", ".join(list(_FORMATS)[:-1])
        raise ConfigError(f"wanted a {known} or .zarr file, or the name of a set; came {str(source)!r}; convert it")
    return read_set(choose(str(source), neural_sets(), "neural set"), options)


def _from_object(source: Any, options: NeuralOptions) -> xr.Dataset:
    if isinstance(source, pd.DataFrame):
        used = options.only(*_COLUMNS, "response_units", source="the table", why="has counts already")
        return read_table(source, used)
    if isinstance(source, xr.Dataset | xr.DataArray):
        options.only("response_units", source="the xarray object", why="names its dimensions")
        return from_labelled(source, options, where="the xarray object")
    if type(source).__name__ == "TsGroup":
        options.only(*_COLUMNS, *_SPIKES, source="the TsGroup", why="is a pynapple object")
        return read_pynapple(source, options)
    raise ConfigError(
        f"wanted a path, the name of a set, a DataFrame, an xarray object or a pynapple TsGroup; came "
        f"{type(source).__name__}; convert it"
    )
