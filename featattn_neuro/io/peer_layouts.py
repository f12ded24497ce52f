"""Responses and tuning curves in the layouts of brainio, rsatoolbox and pynapple, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.io.layouts import ROWS, build, checked_responses, decide_kind, plain_attribute
from featattn_neuro.schema import TUNING

if TYPE_CHECKING:
    from rsatoolbox.data import Dataset as RsaDataset

TO_BRAINIO = {
    "stimulus": "stimulus_id",
    "label": "object_name",
    "unit": "neuroid_id",
    "area": "region",
    "subject": "animal",
    "y": "channel_y",
    "x": "channel_x",
}
"""Our coordinates by the names that brainio gives them; all others keep theirs."""
FROM_BRAINIO = {theirs: ours for ours, theirs in TO_BRAINIO.items()} | {"image_id": "stimulus"}
_OF_PRESENTATIONS = ("stimulus", "label")
"""Ours that brainio keeps along presentations; the others of `TO_BRAINIO` are those of neuroids."""


def to_brainio(responses: xr.Dataset, *, regions: Mapping[str, str] | None = None) -> xr.DataArray:
    """A recording in brainio's layout: presentation x neuroid, as brain-score's assemblies are written to files.

    Parameters
    ----------
    responses : ACTIVATIONS (one presentation per stimulus) or NEURAL (one per trial); one reduction.
    regions : brain region that each layer stands for (a commitment), by layer name; coordinate `region`. Only for
        ACTIVATIONS; neurons bring their own area.

    Returns
    -------
    DataArray (presentation, neuroid), values and dtype unchanged, without MultiIndex: flat coordinates
    `stimulus_id`, `object_name` (our label), `repetition` (counted from 0 where the recording has none),
    `neuroid_id`, `layer`, `channel`, `channel_y`, `channel_x`, `region`, `animal` and our others by their own names.
    `brainio.assemblies.NeuroidAssembly(result)` gathers them into its MultiIndex. `leverage` and other variables are
    left out; the attribute `left_out` names them.

    Raises
    ------
    DataError : several reductions, a layer without region. ConfigError : another kind.

    Notes
    -----
    BrainIO Technical Specification, "BrainIO Data Assembly"; Schrimpf et al. 2018.

    >>> unit = {"unit": ["conv/0"], "layer": ("unit", ["conv"]), "channel": ("unit", [0])}
    >>> recorded = xr.Dataset({"response": (("stimulus", "unit"), [[3.0], [5.0]])}, unit | {"stimulus": ["a", "b"]})
    >>> found = to_brainio(recorded, regions={"conv": "V1"})
    >>> found.dims, found.stimulus_id.values.tolist(), found.region.values.tolist()
    (('presentation', 'neuroid'), ['a', 'b'], ['V1'])
    """
    response, kind = checked_responses(responses)
    dims = {ROWS[kind]: "presentation", "unit": "neuroid"}
    names = {str(name): _theirs(str(name), dims[str(coord.dims[0])]) for name, coord in response.coords.items()}
    given = [*names.values(), *(["region"] if regions is not None else [])]
    taken = next((ours for ours, name in names.items() if given.count(name) > 1 and ours == name), None)
    if taken is not None:
        raise DataError(f"the metadata column {taken!r} has a name that brainio gives something else; rename it")
    coordinates = {
        names[str(name)]: (dims[str(coord.dims[0])], coord.values) for name, coord in response.coords.items()
    }
    if "repetition" not in coordinates:
        stimulus = pd.Series(response["stimulus"].values.astype(str))
        coordinates["repetition"] = ("presentation", stimulus.groupby(stimulus).cumcount().to_numpy())
    if regions is not None:
        if "layer" not in response.coords:
            raise DataError("regions are for layers of a network; these units have areas of their own; leave it out")
        layers = response["layer"].values.astype(str)
        missing = sorted(set(layers) - set(regions))
        if missing:
            raise DataError(
                f"regions must name every layer; {str(missing[0])!r} is not there; add it, or select layers first"
            )
        coordinates["region"] = ("neuroid", np.array([regions[layer] for layer in layers]))
    return xr.DataArray(response.values, coordinates, ("presentation", "neuroid"), attrs=response.attrs)


def from_brainio(assembly: xr.DataArray | xr.Dataset, *, kind: str | None = None) -> xr.Dataset:
    """A brainio assembly (in memory, or as read from its netCDF file) as ACTIVATIONS or NEURAL.

    Parameters
    ----------
    assembly : dims presentation, neuroid and perhaps a `time_bin` of length 1; coordinates flat, or gathered in
        MultiIndexes, whose levels become coordinates again. A Dataset must hold one variable (brainio writes `data`).
    kind : "ACTIVATIONS" (stimuli unique; `region` stands in for a missing `layer`) or "NEURAL" (presentations);
        None = what the attribute `kind` says, else ACTIVATIONS if neuroids have a `layer`, else NEURAL.

    Returns
    -------
    Dataset of that kind; ids are text. `stimulus_id` (`image_id` in old files), `neuroid_id`, `object_name`, `region`,
    `animal`, `channel_y`, `channel_x` get our names. Coordinates and attributes that the kind has no place for are
    left out and named in the attribute `left_out`.

    Raises
    ------
    DataError : other dimensions, no ids, a stimulus shown twice where stimuli must be unique.

    >>> array = xr.DataArray([[1.0], [2.0]], dims=("presentation", "neuroid")).assign_coords(
    ...     stimulus_id=("presentation", ["a", "a"]), neuroid_id=("neuroid", ["n1"]), region=("neuroid", ["IT"]))
    >>> found = from_brainio(array)
    >>> found.attrs["kind"], found.stimulus.values.tolist(), found.area.values.tolist()
    ('NEURAL', ['a', 'a'], ['IT'])
    """
    if isinstance(assembly, xr.Dataset):
        if len(assembly.data_vars) != 1:
            raise DataError(f"wanted one variable; came {sorted(map(str, assembly.data_vars))}; select the responses")
        assembly = assembly[next(iter(assembly.data_vars))].assign_attrs(assembly.attrs)
    array = xr.DataArray(assembly)
    if "time_bin" in array.dims:
        if array.sizes["time_bin"] != 1:
            raise DataError(f"the assembly has {array.sizes['time_bin']} time bins; wanted one; select or average them")
        array = array.isel(time_bin=0, drop=True)
    if set(array.dims) != {"presentation", "neuroid"}:
        raise DataError(f"wanted dimensions (presentation, neuroid); came {array.dims}; rename or select first")
    array = array.transpose("presentation", "neuroid")
    rows, units = (
        _flat_coordinates(array, dim, ours) for dim, ours in (("presentation", "stimulus"), ("neuroid", "unit"))
    )
    wanted = decide_kind(kind, array.attrs, units)
    if wanted == "ACTIVATIONS" and not np.any(np.asarray(rows.get("repetition", [0]))):
        rows.pop("repetition", None)  # each stimulus once: nothing is lost
    return build(array.values, rows, units, kind=wanted, attrs=array.attrs, names="the assembly has", theirs=TO_BRAINIO)


def _theirs(name: str, dim: str) -> str:
    fits = (name in _OF_PRESENTATIONS) == (dim == "presentation")
    return TO_BRAINIO.get(name, name) if fits else name


def _ours(name: str, dim: str) -> str:
    ours = FROM_BRAINIO.get(name, name)
    return ours if (ours in _OF_PRESENTATIONS) == (dim == "presentation") else name


def _flat_coordinates(array: xr.DataArray, dim: str, ids: str) -> dict[str, np.ndarray]:
    """Coordinates along `dim` by our names, levels of a MultiIndex among them."""
    present = {str(name): coord.values for name, coord in array.coords.items() if coord.dims == (dim,) and name != dim}
    old = "image_id" if "stimulus_id" in present else ""  # then it is a column like any other
    found = {name if name == old else _ours(name, dim): values for name, values in present.items()}
    # where a dimension has one coordinate only, gathering it into an index puts its values under the dimension's name
    if ids not in found and dim in array.indexes and array.indexes[dim].nlevels == 1:
        found[ids] = array[dim].values
    return found


def to_rsatoolbox(responses: xr.Dataset) -> RsaDataset:
    """A recording as `rsatoolbox.data.Dataset`: measurements (observations, channels) with our names as descriptors.

    Parameters
    ----------
    responses : ACTIVATIONS or NEURAL; one reduction.

    Returns
    -------
    Dataset : `obs_descriptors` holds `stimulus`, `label`, … (for NEURAL also `trial`, `session`, …),
    `channel_descriptors` holds `unit`, `layer`, …, `descriptors` the attributes.

    Raises
    ------
    ConfigError : rsatoolbox is not installed, or another kind. DataError : several reductions.
    """
    try:
        from rsatoolbox.data import Dataset
    except ImportError as error:
        raise ConfigError(
            "this needs rsatoolbox, which is not installed: pip install 'featattn_neuro[peers]'"
        ) from error
    response, kind = checked_responses(responses)
    by_dim: dict[str, dict[str, np.ndarray]] = {ROWS[kind]: {}, "unit": {}}
    for name, coord in response.coords.items():
        by_dim[str(coord.dims[0])][str(name)] = coord.values.copy()
    return Dataset(
        response.values.copy(),
        descriptors=dict(response.attrs),
        obs_descriptors=by_dim[ROWS[kind]],
        channel_descriptors=by_dim["unit"],
    )


def from_rsatoolbox(
    dataset: RsaDataset, *, kind: str | None = None, stimulus: str = "stimulus", unit: str = "unit"
) -> xr.Dataset:
    """An `rsatoolbox.data.Dataset` as ACTIVATIONS or NEURAL.

    Parameters
    ----------
    dataset : measurements (observations, channels).
    kind : as in `from_brainio`.
    stimulus, unit : names of the observation and channel descriptors that hold the ids.

    Returns
    -------
    Dataset of that kind; descriptors that it has no place for, one called `stimulus` or `unit` where another holds the
    ids among them, are left out and named in the attribute `left_out`.

    Raises
    ------
    DataError : not two dimensions, no such descriptors (those that are there are listed).
    """
    measurements = np.asarray(getattr(dataset, "measurements", None))
    if measurements.ndim != 2:
        raise DataError(
            f"wanted an rsatoolbox Dataset of measurements (observations, channels); came {type(dataset).__name__}; "
            "average or select time first"
        )
    rows: dict[str, Any] = dict(dataset.obs_descriptors)
    units: dict[str, Any] = dict(dataset.channel_descriptors)
    lost = []
    for what, table, wanted, name in (("observation", rows, stimulus, "stimulus"), ("channel", units, unit, "unit")):
        if wanted not in table:
            raise DataError(f"there is no {what} descriptor {wanted!r}; there are {sorted(table)}; pass {name}=")
        if name != wanted and name in table:
            lost.append(name)
        table[name] = table.pop(wanted)
    attrs = dict(dataset.descriptors)
    found = build(measurements, rows, units, kind=decide_kind(kind, attrs, units), attrs=attrs, names="the Dataset has")
    left = [*lost, *filter(None, str(found.attrs.get("left_out", "")).split(", "))]
    return found.assign_attrs(left_out=", ".join(sorted(left))) if left else found


def to_pynapple(tuning: xr.Dataset, *, feature: str = "level") -> xr.DataArray:
    """Tuning curves as `pynapple.compute_tuning_curves` gives them: (unit, feature).

    Parameters
    ----------
    tuning : TUNING, curve(unit, level).
    feature : name of the feature's dimension.

    Returns
    -------
    DataArray (unit, feature) with the levels as coordinate. `area`, `subject`, `status`, `sem` and `n_trials` come
    along as coordinates. The attribute `occupancy` (array over levels, wanted by pynapple's decoding and information)
    is the number of trials, where that is the same for all units; otherwise there is none.

    Raises
    ------
    ConfigError : a feature called "unit". SchemaError : no TUNING.

    >>> curves = {"curve": (("unit", "level"), [[2.0, 7.0]]), "status": ("unit", ["ok"])}
    >>> found = to_pynapple(xr.Dataset(curves, {"unit": ["V1/0"], "level": [0.0, 1.0]}), feature="disparity")
    >>> found.dims, found.disparity.values.tolist()
    (('unit', 'disparity'), [0.0, 1.0])
    """
    if feature == "unit":
        raise ConfigError("the feature's dimension cannot be called 'unit'; choose another name")
    checked = TUNING.check(tuning.drop_vars([name for name, coord in tuning.coords.items() if coord.ndim == 0]))
    along = {"unit", "level"}  # what has other dimensions (pairs of units) has no place beside the curves
    others = {name: one for name, one in checked.data_vars.items() if name != "curve" and set(one.dims) <= along}
    array = checked["curve"].assign_coords(others)
    attrs: dict[str, Any] = {
        key: value for key, value in checked.attrs.items() if key not in ("kind", "schema_version")
    }
    if "n_trials" in checked:
        trials = checked["n_trials"].values
        if (trials == trials[:1]).all():
            attrs["occupancy"] = trials[0].astype(np.float64)
    renamed = array.rename({"level": feature}) if feature != "level" else array
    return renamed.rename(None).transpose("unit", feature).assign_attrs(attrs)


def from_pynapple(curves: xr.DataArray) -> xr.Dataset:
    """Tuning curves of `pynapple.compute_tuning_curves` over one feature as TUNING.

    Parameters
    ----------
    curves : (unit, feature); unit ids become text. Coordinates `area`, `subject`, `status`, `sem`, `n_trials` are
        taken over where they are there.

    Returns
    -------
    TUNING: `curve`, `status`: where the curves bring none, "too_few" with fewer than two defined levels, "dead" if all
    are 0, "constant" if all are equal; `n_trials` is the attribute `occupancy` (samples of the feature per bin) where
    that is in whole numbers. Other attributes that are arrays (bin edges, rates) have no place and are left out;
    `left_out` names them.

    Raises
    ------
    DataError : no dimension `unit`, or more than one feature.

    >>> array = xr.DataArray([[2.0, 7.0]], {"unit": [3], "angle": [0.0, 1.0]}, ("unit", "angle"))
    >>> found = from_pynapple(array)
    >>> found.curve.dims, found.unit.values.tolist(), found.status.values.tolist()
    (('unit', 'level'), ['3'], ['ok'])
    """
    if not isinstance(curves, xr.DataArray) or "unit" not in curves.dims or curves.ndim != 2:
        came = curves.dims if isinstance(curves, xr.DataArray) else type(curves).__name__
        raise DataError(f"wanted a DataArray (unit, feature) of one feature; came {came}; select or average the others")
    feature = next(dim for dim in curves.dims if dim != "unit")
    array = xr.DataArray(curves).rename({feature: "level"}) if feature != "level" else xr.DataArray(curves)
    array = array.transpose("unit", "level").astype(np.float64)
    carried = {str(name): coord for name, coord in array.coords.items() if name in TUNING.variables}
    variables = {
        name: (coord.dims, coord.transpose(..., "level").values if coord.ndim == 2 else coord.values)
        for name, coord in carried.items()
    }
    variables["curve"] = (("unit", "level"), array.values)
    occupancy = np.asarray(array.attrs.get("occupancy", np.nan), dtype=np.float64)
    counted = occupancy.shape == array.shape[1:] and bool((occupancy == np.round(occupancy)).all())
    if counted and "n_trials" not in variables:
        variables["n_trials"] = (("unit", "level"), np.tile(occupancy.astype(np.int64), (array.shape[0], 1)))
    if "status" not in variables:
        variables["status"] = (("unit",), np.array([_curve_status(row) for row in array.values]))
    coordinates = {
        "unit": [str(one) for one in array["unit"].values.tolist()],
        "level": array["level"].values.astype(np.float64),
    } | {name: ("unit", array[name].values.astype(str)) for name in ("area", "subject") if name in array.coords}
    plain = {str(key): plain_attribute(value) for key, value in array.attrs.items() if key != "left_out"}
    kept = {key: value for key, value in plain.items() if value is not None}
    dropped = {key for key in plain if key not in kept and not (counted and key == "occupancy")}
    dropped |= {str(name) for name in array.coords} - set(coordinates) - set(carried)
    told = {"left_out": ", ".join(sorted(dropped))} if dropped else {}
    return TUNING.check(xr.Dataset(variables, coordinates, {**kept, **told, "kind": "TUNING"}))


def _curve_status(row: np.ndarray) -> str:
    seen = row[np.isfinite(row)]
    if seen.size < 2:
        return "too_few"
    if (seen == 0).all():
        return "dead"
    return "constant" if np.ptp(seen) == 0 else "ok"
