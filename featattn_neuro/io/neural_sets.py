"""The neural sets of the manifest: disparity tuning, IT rasters, V4 counts, and dissimilarities of 92 objects.

A row is one presentation. In the disparity sets every cell was recorded alone, so that a row of its own for each
presentation would be almost all NaN: there, row (level, k) holds each cell's k-th presentation of that level, and the
attribute `simultaneous` is 0: covariance between such units means nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, StoreError, choose
from featattn_neuro.io import manifest
from featattn_neuro.io.images import file_ids, list_zip
from featattn_neuro.io.neural_columns import NeuralOptions
from featattn_neuro.io.neural_windows import check_window, window_text
from featattn_neuro.io.stimulus_set import content_id
from featattn_neuro.io.store import load_kind
from featattn_neuro.schema import DISSIMILARITY, NEURAL

MT_CONTROLS = (-9999.0, -99.0, 98.0, 99.0)
"""Values in the MT files' disparity that are codes of control stimuli, no disparities."""

V1V2_CONTROLS_BELOW = -500.0
"""Disparities below this are codes of control stimuli in the V1 and V2 file."""

RASTER_WINDOW = (100.0, 500.0)
"""Default window after stimulus onset in ms in which spikes of rasters are counted."""


def neural_sets() -> list[str]:
    """Names of the neural sets of the manifest."""
    return [entry.name for entry in manifest.load_manifest().entries if entry.loader in _READERS]


def read_set(name: str, options: NeuralOptions) -> xr.Dataset:
    """NEURAL of a set of the manifest; window, baseline and response_units are for rasters only."""
    reader = _READERS[manifest.load_manifest().entry(name).loader]
    if reader is _read_rasters:
        options.only("window", "baseline", "response_units", source=name, why="is a set of the manifest")
        dataset = _read_rasters(manifest.find(name), options)
    else:
        options.only(source=name, why="has counts already")
        dataset = reader(manifest.find(name))
    return NEURAL.check(dataset.assign_attrs(source=name))


def read_dissimilarity(source: str | Path) -> xr.Dataset:
    """Read dissimilarity matrices measured in brains.

    Parameters
    ----------
    source : "objects92" (Kriegeskorte 2008: 92 object images; subjects "monkey_IT", 674 cells of two monkeys, and
        "human_IT", fMRI of four people; 1 − Pearson over cells or voxels), or a ".nc" or ".zarr" file of kind
        DISSIMILARITY.

    Returns
    -------
    DISSIMILARITY: dissimilarity(subject, stimulus, other_stimulus); the ids are those of load_stimuli("objects92").

    Raises
    ------
    ConfigError
        Unknown set.
    StoreError, SchemaError
        A set or file that is missing, damaged or of another kind.
    """
    if Path(source).suffix.lower() in (".nc", ".zarr"):
        return load_kind(source, DISSIMILARITY)
    names = [e.name for e in manifest.load_manifest().entries if e.loader == "objects92"]
    name = choose(str(source), names, "dissimilarity set")
    path = manifest.find(name) / "Kriegeskorte_Neuron2008_supplementalData.mat"
    content = _load_mat(path, "RDMs_mIT_hIT_fig1")
    subjects = {"mIT_674neurons": "monkey_IT", "hITvisStim_316vx": "human_IT"}
    from scipy.spatial.distance import squareform

    matrices = content["RDMs_mIT_hIT_fig1"]
    ids = np.array([content_id(image) for image in read_object_images(path.parent)[0]])
    return DISSIMILARITY.check(
        xr.Dataset(
            {
                "dissimilarity": (
                    ("subject", "stimulus", "other_stimulus"),
                    np.stack([squareform(np.asarray(m.RDM, dtype=float)) for m in matrices]),
                )
            },
            coords={"subject": [subjects[m.name] for m in matrices], "stimulus": ids, "other_stimulus": ids},
            attrs={"kind": "DISSIMILARITY", "source": name, "distance": "1 - Pearson"},
        )
    )


def read_object_images(folder: Path) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """The 92 object images of Kriegeskorte (2008): uint8 (92, 175, 175, 3), category, name; order of the matrices."""
    path = folder / "Kriegeskorte_Neuron2008_supplementalData.mat"
    objects = _load_mat(path, "stimuli_92objs")["stimuli_92objs"]
    images = np.stack([np.asarray(one.image, dtype=np.uint8) for one in objects])
    return images, [str(one.category) for one in objects], [f"object {i + 1:02d}" for i in range(len(objects))]


@dataclass(frozen=True)
class _Cell:
    """One cell that was recorded alone: stimulus level and response of each presentation, in order."""

    unit: str
    area: str
    subject: str
    level: NDArray[np.float64]
    response: NDArray[np.float64]


def _read_v1v2(path: Path) -> xr.Dataset:
    cells = []
    for number, cell in enumerate(_load_mat(path, "DTdata")["DTdata"], start=1):
        area = f"V{int(cell.visualarea)}"
        counts = [np.atleast_1d(c).astype(float) for c in np.ravel(cell.counts)]
        level = np.repeat(np.ravel(cell.dx).astype(float), [c.size for c in counts])
        response = np.concatenate(counts)
        real = level > V1V2_CONTROLS_BELOW
        cells.append(_Cell(f"{area}/{number:04d}", area, "", level[real], response[real]))
    note = "counts while the stimulus was on: 0.42, 0.47 or 0.5 s"
    return _one_at_a_time(cells, units="spikes", note=note)


def _read_mt(path: Path) -> xr.Dataset:
    cells = []
    for file in sorted(path.glob("DispTunRaw_*.mat")):
        data = _load_mat(file, "ddat")["ddat"]
        level = np.ravel(data.disparity).astype(float)
        response = np.ravel(data.firing_rate).astype(float)
        real = ~np.isin(level, MT_CONTROLS)
        name = file.stem.removeprefix("DispTunRaw_")
        cells.append(_Cell(f"MT/{name}", "MT", name.split("c")[0], level[real], response[real]))
    return _one_at_a_time(cells, units="spikes/s", note="mean rate of each presentation")


def _one_at_a_time(cells: Sequence[_Cell], *, units: str, note: str) -> xr.Dataset:
    """Row (level, k) = each cell's k-th presentation of the level; levels to 0.001, finer than the display's frames."""
    table = pd.DataFrame(
        {
            "unit": np.repeat(np.arange(len(cells)), [c.level.size for c in cells]),
            "level": np.round(np.concatenate([c.level for c in cells]), 3) + 0.0,  # -0 becomes 0
            "response": np.concatenate([c.response for c in cells]),
        }
    )
    table["repetition"] = table.groupby(["unit", "level"]).cumcount()
    keys = table[["level", "repetition"]].drop_duplicates().sort_values(["level", "repetition"], ignore_index=True)
    rows = pd.MultiIndex.from_frame(keys).get_indexer(pd.MultiIndex.from_frame(table[["level", "repetition"]]))
    response = np.full((len(keys), len(cells)), np.nan, dtype=np.float32)
    response[rows, table["unit"].to_numpy()] = table["response"].to_numpy()
    level = keys["level"].to_numpy()
    coordinates: dict[str, Any] = {
        "trial": np.arange(len(keys)),
        "unit": np.array([c.unit for c in cells]),
        "stimulus": ("trial", np.array([f"disparity {one:+.3f}" for one in level])),
        "level": ("trial", level, {"units": "degree"}),
        "repetition": ("trial", keys["repetition"].to_numpy()),
        "area": ("unit", np.array([c.area for c in cells])),
    }
    if any(c.subject for c in cells):
        coordinates["subject"] = ("unit", np.array([c.subject for c in cells]))
    attrs = {"kind": "NEURAL", "units": units, "simultaneous": 0, "note": note}
    return xr.Dataset({"response": (("trial", "unit"), response)}, coords=coordinates, attrs=attrs)


def _read_rasters(path: Path, options: NeuralOptions) -> xr.Dataset:
    """NeuroDecodeR rasters: a file per unit; units of a session share their trials."""
    sessions: dict[str, dict[str, Any]] = {}
    for file in sorted(path.glob("*_raster_data.mat")):
        content = _load_mat(file, "raster_data", "raster_labels", "raster_site_info")
        raster, labels, site = content["raster_data"], content["raster_labels"], content["raster_site_info"]
        onset = int(site.alignment_event_time) - 1  # MATLAB counts from 1
        stimuli = [f"{one}/{at}" for one, at in zip(labels.stimulus_ID, labels.stimulus_position, strict=True)]
        session = sessions.setdefault(str(site.session_ID), {"stimuli": stimuli, "units": {}})
        if session["stimuli"] != stimuli:
            raise StoreError(
                f"the units of session {site.session_ID} do not share their trials ({str(file)!r} differs)"
            )
        unit = f"IT/{site.session_ID}/{int(site.recording_channel):02d}{site.unit}"
        session["units"][unit] = _raster_response(raster, onset, options)
    window = RASTER_WINDOW if options.window is None else options.window
    attrs: dict[str, str | int] = {
        "units": options.response_units or "spikes",
        "window": window_text(window, "stimulus onset"),
        "baseline": "none"
        if options.baseline is None
        else window_text(options.baseline, "stimulus onset") + ", subtracted",
    }
    neural = _by_session(sessions, area="IT", attrs=attrs)
    objects = [one.split("/")[0] for one in neural["stimulus"].values.tolist()]
    return neural.assign_coords(label=("trial", np.array(objects)))


def _raster_response(raster: NDArray[Any], onset: int, options: NeuralOptions) -> NDArray[np.float64]:
    """(trial,) spikes (or spikes/s) in the window, those expected from the baseline's rate subtracted."""
    response, samples = _window_sum(raster, onset, options.window or RASTER_WINDOW, "window")
    if options.baseline is not None:
        before, length = _window_sum(raster, onset, options.baseline, "baseline")
        response = response - before * (samples / length)
    return response * (1000.0 / samples) if options.response_units == "spikes/s" else response


def _window_sum(
    raster: NDArray[Any], onset: int, window: tuple[float, float], name: str
) -> tuple[NDArray[np.float64], int]:
    """(trial,) spikes in a window of ms after onset, and its length; samples are 1 ms."""
    start, stop = check_window(window, name)
    first, last = onset + round(start), onset + round(stop)
    if not 0 <= first < last <= raster.shape[1]:
        raise ConfigError(
            f"wanted a {name} within {-onset} … {raster.shape[1] - onset} ms of onset, start before end; came "
            f"({start:g}, {stop:g}); change it"
        )
    return raster[:, first:last].sum(axis=1).astype(np.float64), last - first


def _by_session(sessions: dict[str, dict[str, Any]], *, area: str, attrs: dict[str, str | int]) -> xr.Dataset:
    stimulus = [one for session in sessions.values() for one in session["stimuli"]]
    units = [unit for session in sessions.values() for unit in session["units"]]
    name = np.repeat(list(sessions), [len(s["stimuli"]) for s in sessions.values()])
    response = np.full((len(stimulus), len(units)), np.nan, dtype=np.float32)
    row = column = 0
    for session in sessions.values():
        block = np.stack(list(session["units"].values()), axis=1)
        response[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    repetition = pd.DataFrame({"session": name, "stimulus": stimulus}).groupby(["session", "stimulus"]).cumcount()
    return xr.Dataset(
        {"response": (("trial", "unit"), response)},
        coords={
            "trial": np.arange(len(stimulus)),
            "unit": np.array(units),
            "stimulus": ("trial", np.array(stimulus)),
            "session": ("trial", name),
            "repetition": ("trial", repetition.to_numpy()),
            "area": ("unit", np.repeat(area, len(units))),
        },
        attrs={"kind": "NEURAL", "simultaneous": 1, **attrs},
    )


def _read_v4(path: Path) -> xr.Dataset:
    """Units × images × repeats, NaN-padded; images in the order of their base names; ids are those of the files."""
    try:
        counts = np.load(path / "responses_raw.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"{str(path / 'responses_raw.npy')!r} is no readable array ({error}); fetch it again"
        ) from error
    images = list_zip(path / "images_210325.zip")
    by_base = np.array(sorted(range(len(images)), key=lambda i: Path(images.members[i]).name), dtype=np.int64)
    ids = np.array(file_ids(images.select(by_base)))
    if counts.ndim != 3 or counts.shape[1] != ids.size:
        raise StoreError(f"wanted responses (unit, {ids.size} images, repeat) in {str(path)!r}; came {counts.shape}")
    n_units, n_images, n_repeats = counts.shape
    response = counts.reshape(n_units, -1).T.astype(np.float32)
    shown = ~np.isnan(response).all(axis=1)
    return xr.Dataset(
        {"response": (("trial", "unit"), response[shown])},
        coords={
            "trial": np.arange(int(shown.sum())),
            "unit": np.array([f"V4/{i:02d}" for i in range(n_units)]),
            "stimulus": ("trial", np.repeat(ids, n_repeats)[shown]),
            "repetition": ("trial", np.tile(np.arange(n_repeats), n_images)[shown]),
            "session": ("trial", np.repeat("210325", int(shown.sum()))),
            "area": ("unit", np.repeat("V4", n_units)),
        },
        attrs={"kind": "NEURAL", "units": "spikes", "simultaneous": 1, "note": "spikes in 100 ms"},
    )


_READERS: dict[str, Callable[..., xr.Dataset]] = {
    "disparity_v1v2": _read_v1v2,
    "disparity_mt": _read_mt,
    "neurodecoder_raster": _read_rasters,
    "v4_natural_images": _read_v4,
}


def _load_mat(path: Path, *wanted: str) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True, struct_as_record=False)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise StoreError(f"{str(path)!r} is not a readable MATLAB file ({error}); fetch it again") from error
    missing = [name for name in wanted if name not in content]
    if missing:
        held = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise StoreError(f"wanted {missing[0]!r} in {str(path)!r}; it holds {held}; fetch it again")
    return content
