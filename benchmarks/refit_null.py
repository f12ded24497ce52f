"""Where the refit null lies: labels permuted, and read-out, choice of rate and penalty, and gains all made again.

    python benchmarks/refit_null.py [--networks 12] [--refits 100] [--joint 0] [--quick] [--json FILE]

Trains the networks of the digits job (own images each), measures held-out selectivity |d'| on S, un-gained and with the
true labels, and correlates (Spearman, live filters, mean over tasks and refits) gains learned from permuted
labels with it. Wanted: the 99 % t interval over networks contains 0 and lies within +-.10; keeping the read-out
that was fitted on true labels shifts it: the trap. Networks are the replicates; refits only sharpen each
network's location.

Gains at the last layer, nine choices in every relabelling: about 8 minutes for 12 networks on one quiet core, of which
most is training. `--joint N` adds N refits of all three layers together, one choice (rate .1, penalty .01): about 40 s
per network and refit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from featattn_neuro.arrays.association import spearman
from featattn_neuro.arrays.resampling import t_interval
from featattn_neuro.io.store import load_kind
from featattn_neuro.jobs import stages
from featattn_neuro.jobs.config import parse_config
from featattn_neuro.jobs.context import NetworkJob
from featattn_neuro.measures.gain_selectivity import MIN_LIVE
from featattn_neuro.nets.cutting import CutNetwork
from featattn_neuro.nets.learning import Schedule
from featattn_neuro.nets.refit import refit_gains
from featattn_neuro.nets.training import head_inputs

CONFIG = Path(__file__).resolve().parents[1] / "analyses" / "configs" / "digits.yaml"
RATES, PENALTIES = (0.01, 0.03, 0.1), (0.01, 0.001, 0.0)
BOUND = 0.10


def network_jobs(folder: Path, count: int, quick: bool) -> list[NetworkJob]:
    """The networks of the digits job, as many as wanted, in a folder of their own."""
    settings: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings["networks"]["train"] |= {"count": count, "epochs": 2 if quick else 20}
    config = parse_config(yaml.safe_dump(settings), "benchmarks/refit_null.py")
    for name in ("networks", "detectors", "splits", "activations", "selectivity", "halves"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return [NetworkJob(config, folder, name) for name in config.network_names()]


def prepare(job: NetworkJob) -> None:
    """Train the network, fit its detectors, measure its selectivity."""
    for stage in (stages.train_network, stages.record, stages.measure_selectivity):
        stage(job, lambda share: None)


def locations(job: NetworkJob, layers: list[str], refits: int, schedules: list[Schedule], *, trap: bool) -> np.ndarray:
    """(layers,) mean over refits and tasks of the correlation of refitted gains with held-out |d'|."""
    cut = CutNetwork(job.network.module, layers, job.head)
    rows, check = cut.prefix(job.images("G")), cut.prefix(job.images("V"))
    features = head_inputs(job.network.module, job.head, job.single_images("R"))
    gains = refit_gains(
        cut, rows, job.target_matrix("G"), features, job.targets(job.splits["R"]).values, schedules, refits=refits,
        seed=[0, job.index], choice_rows=check, choice_target=job.target_matrix("V"),
        informed=job.detector if trap else None,
    )  # fmt: skip
    measured = load_kind(job.out / "selectivity" / f"{job.name}.nc", "SELECTIVITY")
    found, begin = [], 0
    for layer in layers:
        width = cut.n_filters[layer]
        here = measured.isel(unit=measured["layer"].values.astype(str) == layer).sortby("channel")
        score = np.abs(here["dprime"].sel(task=job.classes).transpose("task", "unit").values)
        live = here["live"].values.astype(bool)
        own = gains[..., begin : begin + width][..., live]
        rho = (
            spearman(own, np.broadcast_to(score[:, live], own.shape)) if live.sum() >= MIN_LIVE else np.array([np.nan])
        )
        found.append(float(np.nanmean(rho)))
        begin += width
    return np.array(found)


def report(label: str, values: np.ndarray, *, null: bool) -> dict[str, Any]:
    """Print one row; whether it is what is wanted."""
    values = values[np.isfinite(values)]
    low, high = t_interval(values, 0.99)
    met = (-BOUND < low < 0 < high < BOUND) if null else high < 0 or low > 0
    wanted = f"contains 0, within ±{BOUND:g}" if null else "does not contain 0"
    print(
        f"| {label} | {values.mean():+.4f} | {low:+.4f} to {high:+.4f} | {wanted} | {'yes' if met else 'NO'} |",
        flush=True,
    )
    return {"label": label, "values": values.tolist(), "low": low, "high": high, "met": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--refits", type=int, default=100)
    parser.add_argument("--joint", type=int, default=0, help="refits of all three layers together")
    parser.add_argument("--quick", action="store_true", help="3 networks, hardly trained, few refits: does it run")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    count, refits = (3, 5) if args.quick else (args.networks, args.refits)
    found: dict[str, list[np.ndarray]] = {}
    since = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for job in network_jobs(Path(folder), count, args.quick):
            prepare(job)
            learning = job.config.learning
            common: dict[str, Any] = {"batch_size": learning.batch_size, "epochs": learning.epochs, "seed": job.index}
            nine = [Schedule(rate=rate, penalty=penalty, **common) for rate in RATES for penalty in PENALTIES]
            for trap in (False, True):
                found.setdefault(f"relu3 alone, trap {trap}", []).append(
                    locations(job, ["relu3"], refits, nine, trap=trap)
                )
                if args.joint:
                    found.setdefault(f"three layers, trap {trap}", []).append(
                        locations(job, job.layers, args.joint, [Schedule(rate=0.1, penalty=0.01, **common)], trap=trap)
                    )
            print(f"{job.name}: {time.perf_counter() - since:.0f} s", flush=True)
    print(f"\n{count} networks, {refits} refits of ten tasks each\n")
    print("| | mean ρ | 99 % t interval over networks | wanted | reached |\n|---|---|---|---|---|")
    rows = []
    for label, values in found.items():
        trap = label.endswith("True")
        name = label.partition(",")[0] + (", informed read-out kept (the trap)" if trap else ", everything refitted")
        table = np.stack(values)
        columns = [table.mean(axis=1)] if table.shape[1] == 1 else [table.mean(axis=1), *table.T]
        for suffix, column in zip(("", " (relu1)", " (relu2)", " (relu3)"), columns, strict=False):
            rows.append(report(name + suffix, column, null=not trap))
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
