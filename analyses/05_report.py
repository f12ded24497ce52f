"""Everything, ending in tables, figures and one page with the verdicts."""

from __future__ import annotations

from _common import run_step

if __name__ == "__main__":
    run_step("report", __doc__ or "")
