"""Association of gains with held-out selectivity, with the refit null."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("associate", __doc__ or "")
