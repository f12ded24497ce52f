"""What the numbered scripts share: read --config and --out, run the job up to one step."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from featattn_neuro.errors import FeatattnError

DEFAULT = Path(__file__).parent / "configs" / "digits.yaml"


def run_step(step: str, description: str) -> None:
    """Run the stages of a configuration up to `step`; what is unchanged is not done again."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=DEFAULT, help="YAML file; default: configs/digits.yaml")
    parser.add_argument("--out", type=Path, default=None, help="results folder; default: results/NAME OF THE CONFIG")
    parser.add_argument("--workers", type=int, default=None, help="worker processes of one thread each")
    arguments = parser.parse_args()
    from featattn_neuro.jobs import runner

    out = arguments.out or Path("results") / arguments.config.stem
    try:
        sys.exit(runner.run(arguments.config, out, until=step, workers=arguments.workers))
    except FeatattnError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
