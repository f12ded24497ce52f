"""Gain-weighted saliency: cue swap on exclusive ink, permuted gains."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("saliency", __doc__ or "")
