"""Labelled arrays of responses, in netCDF or zarr or in memory: kind NEURAL, brainio's layout, or (trial, unit)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import DataError, StoreError
from featattn_neuro.io.layouts import build
from featattn_neuro.io.neural_checks import check_unit_ids, say
from featattn_neuro.io.neural_columns import NeuralOptions
from featattn_neuro.io.peer_layouts import from_brainio
from featattn_neuro.io.store import load_kind
from featattn_neuro.schema import NEURAL


def read_labelled(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of a netCDF file or zarr folder: written by this package, by brainio, or by anyone over (trial, unit)."""
    if not path.exists():
        return load_kind(path, NEURAL)  # says that it is missing
    with _opened(path) as opened:
        if opened.attrs.get("kind") is None:
            return from_labelled(opened.load(), options, where=path.name)
    return from_labelled(load_kind(path, NEURAL), options, where=path.name)


def is_of_a_kind(path: Path) -> bool:
    """Whether the file or folder says of which kind it is, as those of this package do."""
    with _opened(path) as opened:
        return opened.attrs.get("kind") is not None


def from_labelled(source: xr.Dataset | xr.DataArray, options: NeuralOptions, *, where: str) -> xr.Dataset:
    """NEURAL of a labelled array in memory; see `read_neural`."""
    if isinstance(source, xr.Dataset) and source.attrs.get("kind") == "NEURAL":
        stated = {} if options.response_units is None else {"units": options.response_units}
        return NEURAL.check(source).assign_attrs(stated)
    array = source if isinstance(source, xr.DataArray) else _one_response(source, where)
    if "neuroid" in array.dims:
        neural = from_brainio(array, kind="NEURAL")
    elif {"trial", "unit"} == set(map(str, array.dims)):
        neural = _from_trials(array.transpose("trial", "unit"), where)
    else:
        raise DataError(
            f"wanted responses over (presentation, neuroid) or (trial, unit) in {where}; came "
            f"{tuple(map(str, array.dims))}; "
            "rename the dimensions"
        )
    check_unit_ids(neural["unit"].values, where=where)
    absent = int(np.isnan(neural["response"].values).sum())
    found = [f"{absent} of {neural['response'].size} responses are NaN (not recorded)"] if absent else []
    stated = {"units": options.response_units or str(neural.attrs.get("units", "as in the file"))}
    return NEURAL.check(
        neural.assign_attrs({**stated, "window": "as in the file", "baseline": "as in the file", "source": where})
    ).assign_attrs(say(found, where=where))


def _from_trials(array: xr.DataArray, where: str) -> xr.Dataset:
    rows, units = (
        {str(name): coord.values for name, coord in array.coords.items() if coord.dims == (dim,)}
        for dim in ("trial", "unit")
    )
    if "unit" not in units:
        raise DataError(f"the units of {where} have no ids; give the dimension unit its coordinate")
    if "stimulus" not in rows:
        raise DataError(
            f"the trials of {where} have no coordinate 'stimulus', only {', '.join(rows) or 'none'}; "
            "rename the one that names the stimulus"
        )
    return build(array.values, rows, units, kind="NEURAL", attrs=array.attrs, names=f"{where} has")


def _responses(dataset: xr.Dataset) -> list[str]:
    wanted = ({"presentation", "neuroid"}, {"presentation", "neuroid", "time_bin"}, {"trial", "unit"})
    return [str(name) for name, one in dataset.data_vars.items() if set(map(str, one.dims)) in wanted]


def _one_response(dataset: xr.Dataset, where: str) -> xr.DataArray:
    names = _responses(dataset)
    if "response" in names:
        names = ["response"]
    if len(names) != 1:
        held = (
            ", ".join(f"{name!r} {tuple(map(str, one.dims))}" for name, one in dataset.data_vars.items()) or "nothing"
        )
        raise DataError(
            f"wanted one variable over (presentation, neuroid) or (trial, unit) in {where}; it holds {held}; select it"
        )
    return dataset[names[0]].assign_attrs({**dataset.attrs, **dataset[names[0]].attrs})


def _opened(path: Path) -> Any:
    """The file, whoever wrote it; netCDF-3 too, since old brainio assemblies are in it."""
    try:
        if path.suffix.lower() == ".zarr":
            return xr.open_zarr(path)
        with open(path, "rb") as handle:
            old = handle.read(3) == b"CDF"
        return xr.open_dataset(path, engine="scipy" if old else "h5netcdf")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreError(
            f"{str(path)!r} cannot be read ({first}); it is damaged or half copied: write it again"
        ) from error
