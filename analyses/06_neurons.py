"""From an NWB file and the name of a network to a page that compares neurons with filters.

    python analyses/06_neurons.py neurons.nwb efficientnet_lite0

needs no more where the file carries the images that were shown and its trials have a column `stimulus` (make such a
file with `featattn example DIR`). Otherwise name them: --stimulus-column, --images, --event, --window.
Where its trials have the conditions `unattended` and `attended` (or those named by --conditions), the page shows what
attention does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from featattn_neuro.errors import FeatattnError


def main() -> None:
    """Read what is said, compare, print where the page is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", help="NWB file, or whatever read_neural takes")
    parser.add_argument("network", help="a network by name, e.g. efficientnet_lite0")
    parser.add_argument("--out", type=Path, default=None, help="results folder; default: results/NAME OF THE RECORDING")
    parser.add_argument("--weights", default=None, help="weight file, 'pretrained' or 'random'")
    parser.add_argument("--images", default=None, help="folder, zip or set of the images that were shown")
    parser.add_argument("--layers", nargs="*", default=[], help="layers; default: eight activations over the depth")
    parser.add_argument("--level", default=None, help="coordinate of the trials that tuning is measured over")
    parser.add_argument(
        "--conditions", nargs=2, default=None, metavar=("UNATTENDED", "ATTENDED"),
        help="conditions of the trials that attention is measured between; default: those of these names",
    )  # fmt: skip
    parser.add_argument(
        "--stimulus-column", nargs="*", default=None, help="columns of the trials that name the stimulus"
    )
    parser.add_argument("--event", default=None, help="column of the trials from which windows are counted")
    parser.add_argument("--window", nargs=2, type=float, default=None, metavar="MS", help="ms after the event")
    arguments = parser.parse_args()
    from featattn_neuro.jobs.neurons import compare_with_neurons

    said = {
        "stimulus_column": arguments.stimulus_column,
        "event": arguments.event,
        "window": None if arguments.window is None else tuple(arguments.window),
    }
    try:
        page = compare_with_neurons(
            arguments.recording,
            arguments.network,
            arguments.out or Path("results") / Path(arguments.recording).stem,
            images=arguments.images,
            layers=arguments.layers,
            level=arguments.level,
            weights=arguments.weights,
            conditions=None if arguments.conditions is None else tuple(arguments.conditions),
            said={name: value for name, value in said.items() if value is not None},
        )
    except FeatattnError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    print(page)


if __name__ == "__main__":
    main()
