"""A small synthetic session, as an NWB file and as a table: simulated neurons that see gratings, attended or not."""

from __future__ import annotations

import datetime
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.io.frame_layouts import to_tidy
from featattn_neuro.io.neural import read_neural
from featattn_neuro.io.parametric_stimuli import parametric_stimuli
from featattn_neuro.io.stimulus_set import Stimuli
from featattn_neuro.io.store import reserve_space, write_text_atomic

NWB_NAME, CSV_NAME = "neurons.nwb", "neurons.csv"
SIZE, ORIENTATIONS, FREQUENCIES = 48, 12, (2.0, 4.0, 8.0)
UNITS, REPEATS, CONDITIONS = 12, 4, ("unattended", "attended")
GAIN = 1.25
"""Factor on the evoked rate of every neuron while the grating is attended."""

WINDOW = (50.0, 350.0)
"""ms after stimulus onset in which the simulated neurons respond, and in which the table's spikes are counted."""

_TRIAL, _ONSET, _STOP = 1.0, 0.3, 0.8  # s: start to start, start to stimulus, start to end
_MOST_BYTES = 2_000_000
"""More than the NWB file of any seed."""
_NOTE = (
    "Simulated, not recorded: Poisson spikes of von Mises orientation tuning times log-Gaussian "
    "spatial-frequency tuning; "
    f"the evoked rate is multiplied by {GAIN} in the condition 'attended'."
)


def shipped_example() -> list[Path]:
    """The NWB file and the table that come with the package: what `write_example` makes with seed 0.

    >>> [path.name for path in shipped_example()]
    ['neurons.nwb', 'neurons.csv']
    """
    folder = Path(__file__).resolve().parents[1] / "examples"
    return [folder / NWB_NAME, folder / CSV_NAME]


def write_example(folder: str | Path, *, seed: int = 0) -> list[Path]:
    """Write the synthetic session into `folder` (made if it is not there); return the files.

    Parameters
    ----------
    folder : where "neurons.nwb" and "neurons.csv" go; files of these names are replaced.
    seed : of the neurons and their spikes.

    Returns
    -------
    Paths. The NWB file holds 12 units, 288 trials (36 gratings of 48 × 48 pixels, 4 repeats, attended and unattended)
    with the columns stimulus, condition, orientation and spatial_frequency, and the images themselves, so that a
    network
    can be shown what the neurons saw. The CSV table holds the same spikes, counted from 50 to 350 ms after the onset.

    Raises
    ------
    ConfigError : pynwb is not installed. StoreError : the folder cannot be written.
    """
    try:
        import pynwb
    except ImportError as error:
        raise ConfigError("the example is an NWB file: pip install 'featattn_neuro[nwb]'") from error
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {str(folder)!r} cannot be made ({error.strerror}); choose another") from error
    rng = np.random.default_rng(seed)
    gratings = parametric_stimuli(
        size=SIZE,
        orientation=[180 / ORIENTATIONS * k for k in range(ORIENTATIONS)],
        spatial_frequency=FREQUENCIES,
        aperture="circle",
        channels=1,
    )
    trials = _trials(gratings, rng)
    path = folder / NWB_NAME
    file = _nwb_file(pynwb, gratings, trials, _spikes(trials, rng), seed)
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")  # pynwb wants the suffix last
    try:
        reserve_space(temporary, _MOST_BYTES)
        with pynwb.NWBHDF5IO(str(temporary), "w") as handle:
            handle.write(file, cache_spec=False)  # every pynwb has the core schema; it is half of a small file
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        full = os.strerror(errno.ENOSPC)
        reason = full if full in str(error) else str(error).partition("\n")[0]
        raise StoreError(f"{str(path)!r} cannot be written ({reason}); free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    return [path, _write_table(path, folder / CSV_NAME, trials)]


def _trials(gratings: Stimuli, rng: np.random.Generator) -> pd.DataFrame:
    """Every grating in every condition, `REPEATS` times, in random order."""
    which, condition = (
        part.ravel() for part in np.meshgrid(np.arange(len(gratings)), np.arange(len(CONDITIONS)), indexing="ij")
    )
    order = np.concatenate([rng.permutation(which.size) for _ in range(REPEATS)])
    which, condition = which[order], condition[order]
    orientation, frequency = (gratings.parameters[name][which] for name in ("orientation", "spatial_frequency"))
    return pd.DataFrame(
        {
            "start_time": _TRIAL * np.arange(which.size),
            "stim_on_time": _TRIAL * np.arange(which.size) + _ONSET,
            "stop_time": _TRIAL * np.arange(which.size) + _STOP,
            "stimulus": [_name(*pair) for pair in zip(orientation, frequency, strict=True)],
            "condition": np.array(CONDITIONS)[condition],
            "orientation": orientation,
            "spatial_frequency": frequency,
        }
    )


def _name(orientation: float, frequency: float) -> str:
    return f"{orientation:03.0f}deg_{frequency:g}cyc"


def _spikes(trials: pd.DataFrame, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Times of each neuron's spikes, s, to 0.1 ms."""
    orientation = np.deg2rad(trials["orientation"].to_numpy())
    octave = np.log2(trials["spatial_frequency"].to_numpy())
    gain = np.where(trials["condition"] == "attended", GAIN, 1.0)
    onset = trials["stim_on_time"].to_numpy()
    seconds = (WINDOW[1] - WINDOW[0]) / 1000
    found = []
    for unit in range(UNITS):
        preferred, best = np.pi * (unit + rng.random()) / UNITS, rng.uniform(1, 3)
        width, highest, spontaneous = rng.uniform(0.5, 3.0), rng.uniform(20, 60), rng.uniform(1, 5)
        tuned = np.exp(width * (np.cos(2 * (orientation - preferred)) - 1)) * np.exp(-((octave - best) ** 2) / 2)
        evoked = rng.poisson(highest * tuned * gain * seconds)
        driven = np.repeat(onset + WINDOW[0] / 1000, evoked) + seconds * rng.random(int(evoked.sum()))
        length = _TRIAL * len(trials)
        free = length * rng.random(rng.poisson(spontaneous * length))
        found.append(np.unique(np.round(np.concatenate([driven, free]), 4)))
    return found


def _nwb_file(pynwb: Any, gratings: Stimuli, trials: pd.DataFrame, spikes: list[NDArray[np.float64]], seed: int) -> Any:
    start = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    file = pynwb.NWBFile(
        session_description=_NOTE,
        identifier=f"featattn-example-{seed}",
        session_id="example",
        session_start_time=start,
        file_create_date=start,
        subject=pynwb.file.Subject(subject_id="simulated", species="Macaca mulatta", description=_NOTE),
    )
    shown = pynwb.base.Images(
        name="gratings", description="what was shown, by the names in the trials' column stimulus"
    )
    for position in range(len(gratings)):
        name = _name(*(float(gratings.parameters[key][position]) for key in ("orientation", "spatial_frequency")))
        pixels = np.round(255 * gratings[position][0]).astype(np.uint8)
        data = pynwb.H5DataIO(pixels, compression="gzip", compression_opts=9)
        shown.add_image(pynwb.image.GrayscaleImage(name=name, data=data))
    file.add_stimulus_template(shown)
    described = {
        "stim_on_time": "onset of the grating, s",
        "stimulus": "name of the image among the stimulus templates",
        "condition": "was the grating attended",
        "orientation": "of the bars, degrees anticlockwise from horizontal",
        "spatial_frequency": "cycles per image",
    }
    for name, text in described.items():
        file.add_trial_column(name=name, description=text)
    for row in trials.to_dict("records"):
        file.add_trial(**{str(key): value for key, value in row.items()})
    file.add_unit_column(name="brain_area", description="area")
    ends = [[0.0, _TRIAL * len(trials)]]
    for number, times in enumerate(spikes):
        file.add_unit(spike_times=times, obs_intervals=ends, id=number, brain_area="simulated")
    return file


def _write_table(nwb: Path, path: Path, trials: pd.DataFrame) -> Path:
    """The long table of counts: what `read_neural` makes of the NWB file, with the names of the images."""
    neural = read_neural(nwb, event="stim_on_time", window=WINDOW)
    names = trials["stimulus"].to_numpy()[neural["trial"].values]
    table = to_tidy(neural.assign_coords(stimulus=("trial", names)))
    kept = ["trial", "unit", "stimulus", "response", "condition", "orientation", "spatial_frequency"]
    whole = table[kept].astype(dict.fromkeys(("response", "orientation", "spatial_frequency"), int))
    return write_text_atomic(path, whole.to_csv(index=False, lineterminator="\n"))
