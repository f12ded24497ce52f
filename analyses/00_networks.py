"""Splits, reference training or given weights, frozen detectors."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("network", __doc__ or "")
