"""What recording costs: ratios to the bare forward pass beside peers, memory, opening, loading, idle time.

    python benchmarks/recording.py [--part means reductions peers maps weights memory open idle] [--quick]

Parts (all unless some are named); each prints its table and the bound that it is held against:

means, reductions, peers
            one race per network: the bare pass, the bare pass again (the noise of the method), and what the named parts
            add - `record` with means; with mean + max + sd; torchvision fx and torchextractor with means
maps        the race of `record` with every position kept, streamed to zarr, against the bare pass (ResNet-18)
weights     how often weights are hashed in one process, and what knowing them again costs
memory      peak memory of a process that records 10,000 stimuli to a store, minus that of one that records 1,000
open        opening a store of 5 GB and selecting lazily; loading against reading and decoding the touched chunks
idle        share of wall time in which the network waits for images from JPEG files, by number of loader workers

A race: every run takes a block of new images, and every contestant goes over that block once, in an order that is
turned by one from run to run. Ratios are taken within a run; printed are their median over runs and the middle half.
Stimuli are loaded, and the batches of the bare pass and of the peers cut, outside the clock; `record` is timed whole,
from the names of the layers to the labelled Dataset (or to the finished store). Peers work on copies of the network:
torchextractor leaves its hooks on what it is given.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import _recording_race as race
import _recording_size as size
import torch

PARTS = ("means", "reductions", "peers", "maps", "weights", "memory", "open", "idle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--network", nargs="+", choices=tuple(race.NETWORKS), default=tuple(race.NETWORKS))
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every part")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    parser.add_argument("--folder", type=Path, help="where stores are written; unless given, a temporary one")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, featattn_neuro {importlib.metadata.version('featattn_neuro')}, {args.threads} "
        f"torch thread(s), {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start"
    )
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        named = [part for part in ("means", "reductions", "peers") if part in args.part]
        for name in args.network if named else ():
            figures[f"race {name}"] = race.race(name, named, runs=args.runs, quick=args.quick)
        if "maps" in args.part:
            figures["race maps"] = race.maps(folder, runs=args.runs, quick=args.quick)
        for part, run in size.PARTS.items():
            if part in args.part:
                figures[part] = run(folder, threads=args.threads, quick=args.quick)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
