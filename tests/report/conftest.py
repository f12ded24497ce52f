"""A small synthetic result folder: three networks, two layers, four tasks; every kind the report reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from featattn_neuro.measures.arms_summary import arms_summary

TASKS = ["0", "1", "2", "3"]
LAYERS = {"relu1": 12, "relu2": 16}
NETWORKS = ["net0", "net1", "net2"]
ARMS = ["ungained", "probe", "gain", "gain_head", "full", "uniform", "permuted", "permuted_head"]
UNITS = [f"{layer}/{k:03d}" for layer, count in LAYERS.items() for k in range(count)]
UNIT_COORDS = {
    "unit": UNITS,
    "layer": ("unit", [layer for layer, count in LAYERS.items() for _ in range(count)]),
    "channel": ("unit", [k for count in LAYERS.values() for k in range(count)]),
}
SHOWN = [("0|1", "aa11"), ("2|3", "bb22"), ("1|3", "cc33")]


def dataset(kind: str, variables: dict[str, Any], coords: dict[str, Any]) -> xr.Dataset:
    return xr.Dataset(variables, coords, {"kind": kind})


def scores(rng: np.random.Generator) -> xr.Dataset:
    base = np.array([0.70, 0.80, 0.79, 0.84, 0.86, 0.72, 0.66, 0.78])
    auc = np.clip(base[:, None] + 0.03 * rng.standard_normal((len(ARMS), len(TASKS))), 0, 1)
    auc[0, 0] = np.nan
    return dataset(
        "SCORES",
        {
            "auc": (("arm", "task"), auc),
            "novel": (("task",), np.array([1, 1, 0, 0])),
            "trained_numbers": (("arm",), np.array([0, 65, 28, 93, 24000, 2, 28, 93])),
            "rate": (("arm",), np.full(len(ARMS), 0.03)),
            "penalty": (("arm",), np.zeros(len(ARMS))),
        },
        {"arm": ARMS, "task": TASKS},
    )


def curves(rng: np.random.Generator) -> xr.Dataset:
    arms, updates, examples = ["gain_head", "full"], np.arange(0, 130, 10), np.array([1, 2, 5, 10, 20, 50, 100])
    rise = np.stack([0.6 + 0.25 * (1 - np.exp(-updates / tau)) for tau in (20, 35)])
    few = np.stack([0.55 + 0.3 * np.log2(examples) / np.log2(100) * s for s in (1.0, 0.9)])
    noise = 0.01 * rng.standard_normal((2, len(TASKS), 1))
    return dataset(
        "CURVES",
        {
            "auc_updates": (("arm", "task", "updates"), np.clip(rise[:, None] + noise, 0, 1)),
            "auc_examples": (("arm", "task", "examples"), np.clip(few[:, None] + noise, 0, 1)),
        },
        {"arm": arms, "task": TASKS, "updates": updates, "examples": examples},
    )


def choices(rng: np.random.Generator) -> xr.Dataset:
    """Two arms that learn, with two choices each, and one from theory with three."""
    auc = rng.uniform(0.6, 0.9, (3, len(TASKS), 3))
    auc[:2, :, 2] = np.nan
    nan = np.nan
    return dataset(
        "CURVES",
        {"auc_choice": (("arm", "task", "choice"), auc)},
        {
            "arm": ["gain", "full", "tuning"],
            "task": TASKS,
            "choice": np.arange(3),
            "rate": (("arm", "choice"), np.array([[0.1, 0.3, nan], [0.001, 0.003, nan], [nan, nan, nan]])),
            "penalty": (("arm", "choice"), np.array([[0.0, 0.0, nan], [0.01, 0.01, nan], [nan, nan, nan]])),
            "strength": (("arm", "choice"), np.array([[nan, nan, nan], [nan, nan, nan], [0.0, 0.5, 1.0]])),
        },
    )


def gains_and_selectivity(rng: np.random.Generator) -> tuple[xr.Dataset, xr.Dataset]:
    dprime = rng.standard_normal((len(TASKS), len(UNITS)))
    live = np.ones(len(UNITS), int)
    live[[3, 20]] = 0
    dprime[:, live == 0] = np.nan
    gain = np.exp(0.3 * np.abs(np.nan_to_num(dprime)) + 0.2 * rng.standard_normal(dprime.shape) - 0.2)
    status = np.where(np.isnan(dprime), "dead", "ok")
    selectivity = dataset(
        "SELECTIVITY",
        {
            "dprime": (("task", "unit"), dprime),
            "auc": (("task", "unit"), np.where(np.isnan(dprime), np.nan, 0.5 + np.tanh(np.nan_to_num(dprime)) / 2.1)),
            "status": (("task", "unit"), status),
            "live": (("unit",), live),
            "n_target": (("task",), np.full(len(TASKS), 70)),
            "n_distractor": (("task",), np.full(len(TASKS), 280)),
            "selection_source": (("source",), np.array(["s1", "s2"])),
        },
        {"task": TASKS, **UNIT_COORDS},
    )
    gains = dataset(
        "GAINS",
        {
            "gain": (("arm", "task", "unit"), np.stack([gain, np.ones_like(gain)])),
            "head_weight": (("feature",), np.zeros(5)),
            "training_source": (("source",), np.array(["g1", "g2"])),
        },
        {"arm": ["gain", "uniform"], "task": TASKS, **UNIT_COORDS},
    )
    return gains, selectivity


def association(rng: np.random.Generator) -> xr.Dataset:
    rho = 0.15 * rng.standard_normal((1, len(TASKS), len(TASKS), len(LAYERS)))
    rho[0, range(len(TASKS)), range(len(TASKS))] += 0.4
    rho = np.clip(rho, -0.95, 0.95)
    z = np.arctanh(rho).mean(axis=-1)
    matched = z[:, range(len(TASKS)), range(len(TASKS))].mean(axis=-1)
    return dataset(
        "ASSOCIATION",
        {
            "rho": (("measure", "task", "selectivity_task", "layer"), rho),
            "n_live": (("layer",), np.array([11, 15])),
            "status": (("layer",), np.array(["ok", "ok"])),
            "z": (("measure", "task", "selectivity_task"), z),
            "matched": (("measure",), matched),
            "specific": (("measure",), matched - (z.sum(axis=(1, 2)) - matched * len(TASKS)) / 12),
            "p_task_permutation": (("measure",), np.array([0.0312])),
            "gain_reliability": (("layer",), np.array([0.81, 0.74])),
            "refit_null": (("layer", "refit"), 0.1 * rng.standard_normal((2, 19)) - 0.15),
        },
        {"measure": ["dprime"], "task": TASKS, "selectivity_task": TASKS, "layer": list(LAYERS)},
    )


def doses() -> xr.Dataset:
    dose = np.array([0.0, 0.5, 1.0])
    spread = np.broadcast_to(0.3 * dose[:, None, None], (3, 2, 4))
    return dataset(
        "DOSES",
        {
            "auc": (("dose", "task"), np.broadcast_to(0.7 + 0.1 * dose[:, None], (3, 4))),
            "sd_log_gain": (("dose", "layer", "task"), spread),
        },
        {"dose": dose, "layer": list(LAYERS), "task": TASKS},
    )


def agreement(rng: np.random.Generator) -> xr.Dataset:
    layers = [*LAYERS, "relu3"]
    scores = np.clip(0.5 + 0.1 * rng.standard_normal((4, 3, 3, len(SHOWN))), 0, 1)
    return dataset(
        "AGREEMENT",
        {
            "layer_score": (("layer",), np.array([0.18, 0.35, 0.4]) + 0.05 * rng.standard_normal(3)),
            "cue_swap": (("layer", "stimulus"), rng.standard_normal((3, len(SHOWN)))),
            "null_mean": (("layer",), np.full(3, -0.003)),
            "null_sd": (("layer",), np.array([0.05, 0.06, 0.09])),
            "p_permuted": (("layer",), np.array([0.002, 0.001, 0.003])),
            "mass_in_mask": (("layer",), np.array([0.3, 0.32, 0.2])),
            "mass_in_mask_plain": (("layer",), np.array([0.28, 0.3, 0.19])),
            "usable": (("layer",), np.array([1, 1, 0])),
            "share_resolved": (("layer",), np.array([1.0, 0.97, 0.58])),
            "randomised_score": (("layer",), np.array([0.01, -0.02, 0.0])),
            "localisation": (("localiser", "map", "layer", "stimulus"), scores),
            "localisation_mean": (("localiser", "map", "layer"), scores.mean(-1)),
            "localisation_low": (("localiser", "map", "layer"), scores.mean(-1) - 0.05),
            "localisation_high": (("localiser", "map", "layer"), scores.mean(-1) + 0.05),
            "localisation_status": (("localiser", "map", "layer"), np.full((4, 3, 3), "ok")),
            "localisation_null": (("localiser", "layer", "permutation"), 0.4 + 0.1 * rng.standard_normal((4, 3, 5))),
            "localisation_p": (("localiser", "layer"), np.full((4, 3), 0.2)),
        },
        {
            "layer": layers,
            "stimulus": [i for _, i in SHOWN],
            "label": ("stimulus", [name for name, _ in SHOWN]),
            "localiser": ["pointing_game", "mass_in_mask", "auc_judd", "energy"],
            "map": ["excess", "activation", "centre"],
        },
    )


def claims(verdicts: tuple[str, ...] = ("supported", "contradicted", "inconclusive", "negligible")) -> xr.Dataset:
    per = np.array([[0.031, 0.044, 0.027], [-0.030, -0.022, -0.041], [0.35, -0.05, 0.22], [0.02, -0.01, 0.03]])
    sentences = [
        f"T1 {verdicts[0]}: gains with a new head beat a new head alone. Effect +0.0340, N = 3 networks.",
        f"T2 {verdicts[1]}: gains are learned more slowly than the whole network. Effect -0.0310, N = 3 networks.",
        f"T3 {verdicts[2]}: whether gains follow d' is not decided. Generic only & <untested>.",
        f"T4 {verdicts[3]}: the maps hardly favour the cued digit. Undefined cells left out: 2.",
    ]
    return dataset(
        "CLAIMS",
        {
            "estimate": (("claim",), per.mean(axis=1)),
            "ci_low": (("claim",), per.mean(axis=1) - 0.02 * np.array([1, 1, 12, 2])),
            "ci_high": (("claim",), per.mean(axis=1) + 0.02 * np.array([1, 1, 12, 2])),
            "p": (("claim",), np.array([0.004, 0.012, 0.11, 0.4])),
            "p_holm": (("claim",), np.array([0.016, 0.036, 0.22, 0.4])),
            "bound": (("claim",), np.array([0.01, 0.01, 0.1, 0.1])),
            "n_networks": (("claim",), np.full(4, 3)),
            "n_tasks": (("claim",), np.full(4, 4)),
            "n_undefined": (("claim",), np.array([1, 0, 0, 2])),
            "condition_met": (("claim",), np.array([1, 1, 0, 1])),
            "verdict": (("claim",), np.array(verdicts)),
            "sentence": (("claim",), np.array(sentences)),
            "per_network": (("claim", "network"), per),
            "condition": (("claim",), np.array([0.05, np.nan, 0.39, np.nan])),
            "condition_low": (("claim",), np.array([0.02, np.nan, 0.30, np.nan])),
            "condition_high": (("claim",), np.array([0.08, np.nan, 0.48, np.nan])),
            "novel": (("claim",), np.array([0.051, np.nan, np.nan, np.nan])),
            "trained": (("claim",), np.array([0.017, np.nan, np.nan, np.nan])),
        },
        {"claim": ["T1", "T2", "T3", "T4"], "network": NETWORKS},
    )


def saliency(rng: np.random.Generator) -> xr.Dataset:
    at = np.arange(14) * 2 + 0.5
    bump = np.exp(-((at[:, None] - 14) ** 2 + (at[None, :] - 14) ** 2) / 60)
    excess = bump * rng.standard_normal((len(TASKS), len(SHOWN), 1, 1)) + 0.05 * rng.standard_normal((4, 3, 14, 14))
    return dataset(
        "SALIENCY",
        {
            "excess": (("task", "stimulus", "y", "x"), excess),
            "activation": (("stimulus", "y", "x"), np.abs(excess).max(axis=0)),
            "top_channel": (("task", "stimulus", "rank"), rng.integers(0, 16, (4, 3, 2))),
            "top_total": (("task", "stimulus", "rank"), rng.standard_normal((4, 3, 2))),
            "top_map": (("task", "stimulus", "rank", "y", "x"), 0.5 * rng.standard_normal((4, 3, 2, 14, 14))),
        },
        {
            "task": TASKS,
            "stimulus": [i for _, i in SHOWN],
            "label": ("stimulus", [name for name, _ in SHOWN]),
            "y": at,
            "x": at,
        },
    )


FACTS = {
    "title": "The four claims on digits",
    "lead": "Three small networks, each trained and tested on its own images.",
    "command": "featattn run tiny.yaml --out results/tiny",
    "config": {"seed": 0, "networks": 3, "epochs": 30},
    "networks": [{"network": n, "accuracy": 0.97, "novel classes": "0, 1"} for n in NETWORKS],
    "splits": [{"split": s, "used for": u, "images": 200} for s, u in (("R", "reference"), ("P", "performance"))],
    "secondary": [
        {"claim": "T1", "quantity": "gain, frozen head − un-gained", "estimate": 0.03, "ci_low": 0.01, "ci_high": 0.05},
        {"claim": "T4", "quantity": "mass in mask", "estimate": None, "ci_low": None, "ci_high": None},
    ],
    "limits": ["The same writer may appear in several splits: writers are not recorded."],
    "provenance": {"featattn_neuro": "0.1.0", "threads": 1},
}


def write_results(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    files = {"claims.nc": claims(), "association/pooled.nc": association(rng)}
    files["association/pooled.nc"]["p_pooled"] = (("measure",), np.array([0.0007]))
    for name in NETWORKS:
        gains, selectivity = gains_and_selectivity(rng)
        made = {"scores": scores(rng), "curves": curves(rng), "gains": gains, "selectivity": selectivity}
        made |= {"association": association(rng), "agreement": agreement(rng), "doses": doses()}
        made["choices"] = choices(np.random.default_rng(1))
        files |= {f"{part}/{name}.nc": ds for part, ds in made.items()}
    files["saliency/net0_relu2.nc"] = saliency(rng)
    for name, ds in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ds.attrs["seed"] = 7  # numbers come back from HDF5 as numpy scalars
        ds.to_netcdf(folder / name, engine="h5netcdf")
    arms = arms_summary({n: files[f"scores/{n}.nc"] for n in NETWORKS}, replicated=True)
    rows = json.loads(arms.to_json(orient="records"))
    (folder / "facts.json").write_text(json.dumps(FACTS | {"arms_summary": rows}))
    shown = []
    (folder / "stimuli").mkdir()
    for label, ident in SHOWN:
        pixels = np.zeros((28, 28), np.uint8)
        pixels[4:24, 8:11] = 128
        pixels[6:9, 5:22] += 100
        Image.fromarray(pixels).save(folder / "stimuli" / f"{ident}.png")
        shown.append({"id": ident, "label": label, "file": f"{ident}.png", "split": "P"})
    (folder / "stimuli" / "shown.json").write_text(json.dumps(shown))
    return folder


@pytest.fixture(scope="session")
def made_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("made"))


@pytest.fixture
def results_folder(tmp_path: Path, made_results: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(made_results, tmp_path / "results"))
