"""Gains of all arms, and d' and ROC area of every filter on S."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("selectivity", __doc__ or "")
