"""NWB files: units × trials × window, and the images that a file carries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, DataError, StoreError, choose
from featattn_neuro.io.neural_columns import NeuralOptions, as_text
from featattn_neuro.io.neural_windows import SpikeRecording, spikes_to_neural
from featattn_neuro.io.stimulus_set import content_id

_AREAS = ("area", "brain_area", "brain_region", "location")
"""Columns of units (or electrodes) that say where a unit lies."""

_RAGGED = ("spike_times", "obs_intervals", "waveforms", "waveform_mean", "waveform_sd", "electrodes", "electrode_group")


def read_nwb(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of an NWB file: spikes of each unit in a window of each trial; see `read_neural` for the options.

    Where the file carries images (a container of images among its stimulus templates) whose names are the values of
    the stimulus column, stimuli get the ids of those images (`read_nwb_images`).
    """
    if options.trials is not None and not isinstance(options.trials, str):
        raise ConfigError(f"trials names a table of intervals of {str(path)!r}; came {type(options.trials).__name__}")
    with _opened(path) as file:
        where = path.name
        units = _units(file, where)
        trials = _trials(file, options.trials, where)
        ids = units.id[:]
        index = units["spike_times"]
        times = [np.asarray(index[row], dtype=np.float64).ravel() for row in range(len(ids))]
        observed = _observed(units, len(ids))
        subject = getattr(file.subject, "subject_id", None)
        session = file.session_id or file.identifier
        table = _unit_table(file, units, ids, options, subject, str(session))
        recording = SpikeRecording(
            times, table, trials, where, observed, _end(file, observed), {"source": where, "session_id": str(session)}
        )
        images = _image_ids(file)
    neural = spikes_to_neural(recording, options)
    if "session" not in neural.coords:
        neural = neural.assign_coords(session=("trial", np.repeat(str(session), neural.sizes["trial"])))
    return _with_image_ids(neural, images)


def read_nwb_images(path: Path) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Images among the stimulus templates of an NWB file: uint8 (H, W, 3) RGB each, and their names.

    Grey images are repeated for the three colours; values are 0–255, or 0–1 where they are not whole numbers; an alpha
    channel is left out.

    Raises
    ------
    DataError : the file has no images among its stimulus templates. StoreError : no readable NWB file.
    """
    with _opened(path) as file:
        found = [(name, _rgb(np.asarray(image.data[:]), name)) for name, image in _images(file)]
    if not found:
        raise DataError(
            f"{str(path)!r} has no images among its stimulus templates; load the images from where they are "
            "(a folder, a zip) instead"
        )
    return [image for _, image in found], [name for name, _ in found]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from pynwb import NWBHDF5IO
    except ImportError as error:
        raise ConfigError(
            "reading NWB files needs pynwb, which is not installed: pip install 'featattn_neuro[nwb]'"
        ) from error
    if not path.is_file():
        raise StoreError(f"wanted an NWB file; there is none at {str(path)!r}; check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices on cached namespaces, none of them on the data
        try:
            handle = NWBHDF5IO(str(path), "r", load_namespaces=True)
        except Exception as error:
            raise StoreError(
                f"{str(path)!r} is no readable NWB file ({_brief(error)}); copy or convert it again"
            ) from error
        with handle:
            try:
                file = handle.read()
            except Exception as error:  # pynwb raises whatever the schema's parser stumbles on
                raise StoreError(
                    f"{str(path)!r} cannot be read by pynwb ({_brief(error)}); it may follow an old NWB schema or be "
                    "damaged: convert it, or export it again"
                ) from error
            yield file


def _units(file: Any, where: str) -> Any:
    if file.units is None:
        elsewhere = [
            f"processing/{module.name}/{name}"
            for module in file.processing.values()
            for name, one in module.data_interfaces.items()
            if type(one).__name__ == "Units"
        ]
        held = ", ".join(elsewhere) or ", ".join([*file.acquisition, *file.processing]) or "nothing of it"
        raise DataError(
            f"{where} has no units table; wanted sorted units with spike times; it holds {held}; sort the spikes first"
        )
    if not len(file.units):
        raise DataError(f"the units table of {where} is empty; wanted at least one unit; check the file")
    if "spike_times" not in file.units.colnames:
        raise DataError(
            f"the units table of {where} has no spike_times, only {', '.join(file.units.colnames)}; choose another file"
        )
    return file.units


def _trials(file: Any, name: str | None, where: str) -> pd.DataFrame:
    tables = {} if file.trials is None else {"trials": file.trials}
    tables |= {str(key): one for key, one in (file.intervals or {}).items()}
    tables |= {} if file.epochs is None else {"epochs": file.epochs}
    if name is None and "trials" not in tables:
        others = ", ".join(repr(one) for one in tables)
        advice = f"it has the tables {others}: pass trials=NAME" if others else "it has no table of intervals at all"
        raise DataError(
            f"{where} has no trials, so no stimulus is known for any time; {advice}"
            + ("" if others else "; add the trials to the file, or read spikes and trials as pynapple objects")
        )
    table = tables[choose(name or "trials", tables, f"table of intervals of {where}")]
    columns = [one for one in table.colnames if one not in ("timeseries", "tags")]
    ragged = [one for one in columns if type(table[one]).__name__ == "VectorIndex"]
    return pd.DataFrame({one: list(table[one][:]) for one in columns if one not in ragged})


def _unit_table(
    file: Any, units: Any, ids: NDArray[Any], options: NeuralOptions, subject: str | None, session: str
) -> pd.DataFrame:
    plain = [name for name in units.colnames if name not in _RAGGED and type(units[name]).__name__ != "VectorIndex"]
    table = pd.DataFrame({name: list(units[name][:]) for name in plain})
    if "area" not in options.columns and "area" not in table:
        area: Any = next((table[name] for name in _AREAS if name in table), None)
        area = _electrode_area(file, units, len(ids)) if area is None else area
        if area is not None:
            table["area"] = [as_text(one) for one in area]
    if subject and "subject" not in options.columns and "subject" not in table:
        table["subject"] = str(subject)
    if "unit" not in options.columns:
        areas = table["area"] if "area" in table else ["unit"] * len(ids)
        table["unit"] = [f"{area}/{session}/{as_text(one)}" for area, one in zip(areas, ids.tolist(), strict=True)]
    return table


def _electrode_area(file: Any, units: Any, count: int) -> list[str] | None:
    """Location of each unit's first electrode, or of its group."""
    if "electrodes" in units.colnames and file.electrodes is not None and "location" in file.electrodes.colnames:
        location = file.electrodes["location"][:]
        rows = [
            np.ravel(units["electrodes"].target.data[low:high]) for low, high in _slices(units["electrodes"], count)
        ]
        if all(len(one) for one in rows):
            return [as_text(location[int(one[0])]) for one in rows]
    if "electrode_group" in units.colnames:
        return [as_text(group.location) for group in units["electrode_group"][:]]
    return None


def _slices(index: Any, count: int) -> list[tuple[int, int]]:
    ends = [int(end) for end in np.asarray(index.data[:])]
    return list(zip([0, *ends[:-1]], ends, strict=True))[:count]


def _observed(units: Any, count: int) -> list[NDArray[np.float64] | None] | None:
    if "obs_intervals" not in units.colnames:
        return None
    return [np.asarray(units["obs_intervals"][row], dtype=np.float64).reshape(-1, 2) for row in range(count)]


def _end(file: Any, observed: list[NDArray[np.float64] | None] | None) -> float | None:
    """When the recording ended, s: the latest observed time, or the end of the longest regularly sampled series.

    Series with times of their own may be events: the last lick or reward is not the end of the recording.
    """
    ends = [float(one.max()) for one in observed or [] if one is not None and one.size]
    for series in file.acquisition.values():
        count = len(series.data) if getattr(series, "data", None) is not None and np.ndim(series.data) else 0
        if count and getattr(series, "rate", None):
            ends.append(float(series.starting_time or 0.0) + count / float(series.rate))
    return max(ends, default=None)


def _images(file: Any) -> Iterator[tuple[str, Any]]:
    for container in (file.stimulus_template or {}).values():
        for name, image in getattr(container, "images", {}).items():
            yield str(name), image


def _image_ids(file: Any) -> dict[str, str]:
    return {name: content_id(_rgb(np.asarray(image.data[:]), name)) for name, image in _images(file)}


def _with_image_ids(neural: xr.Dataset, images: dict[str, str]) -> xr.Dataset:
    """Names of images that the file carries become the ids of those images."""
    names = neural["stimulus"].values.astype(str)
    if not images or not set(names) <= set(images):
        return neural
    found = neural.assign_coords(stimulus=("trial", np.array([images[name] for name in names])))
    return found if "label" in found.coords else found.assign_coords(label=("trial", names))


def _rgb(data: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if data.ndim not in (2, 3) or (data.ndim == 3 and data.shape[2] not in (1, 3, 4)):
        raise DataError(f"image {name!r} has shape {data.shape}; wanted (H, W), (H, W, 3) or (H, W, 4); mend it")
    values = data if data.ndim == 3 else data[..., None]
    values = values[..., :3]
    if values.dtype.kind == "f":
        scale = 255.0 if float(np.nanmax(values)) <= 1.0 and (values != np.round(values)).any() else 1.0
        values = np.round(values * scale)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise DataError(f"image {name!r} has values outside 0–255; scale it")
    pixels = values.astype(np.uint8)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)


def _brief(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if len(first) < 160 else first[:157] + "…"


def read_pynapple(spikes: Any, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of a pynapple `TsGroup` and an `IntervalSet` (option `trials`) whose metadata say what was shown."""
    trials = options.trials
    if type(trials).__name__ != "IntervalSet":
        raise ConfigError(
            "a pynapple TsGroup needs its trials: pass trials=IntervalSet with the stimulus among its metadata; came "
            f"{type(trials).__name__}"
        )
    table = pd.DataFrame(trials.metadata).reset_index(drop=True)
    table.insert(0, "start_time", np.asarray(trials.start, dtype=np.float64))
    table.insert(1, "stop_time", np.asarray(trials.end, dtype=np.float64))
    keys = list(spikes.keys())
    units = pd.DataFrame(spikes.metadata).reset_index(drop=True)
    if "unit" not in options.columns and "unit" not in units:
        units["unit"] = [f"unit/{as_text(key)}" for key in keys]
    support = np.stack([np.asarray(spikes.time_support.start), np.asarray(spikes.time_support.end)], axis=1)
    recording = SpikeRecording(
        [np.asarray(spikes[key].index, dtype=np.float64) for key in keys], units, table, "the TsGroup",
        [support] * len(keys), float(support.max()), {"source": "pynapple"},
    )  # fmt: skip
    return spikes_to_neural(recording, replace(options, trials=None))
