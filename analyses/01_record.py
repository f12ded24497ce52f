"""Record the mean activation of every filter on split S, un-gained."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("record", __doc__ or "")
