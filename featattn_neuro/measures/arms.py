"""Arms of a transfer experiment against each other, on the same images, in one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from featattn_neuro.arrays.discrimination import paired_delong, roc_area
from featattn_neuro.arrays.multiplicity import adjust
from featattn_neuro.errors import DataError, choose
from featattn_neuro.measures._join import single, without_scalars
from featattn_neuro.schema import SCORES

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def compare_arms(
    scores: xr.Dataset, *, references: Sequence[str] = ("probe", "ungained"), level: float = 0.95
) -> pd.DataFrame:
    """Difference in ROC area of every arm and each reference arm, per task, paired by image.

    Parameters
    ----------
    scores : SCORES of one network, with logit(arm, task, stimulus) and target(task, stimulus).
    references : arms to compare with; each must be there.
    level : of the interval.

    Returns
    -------
    DataFrame, one row per (arm, reference, task): `auc`, `auc_reference`, `difference`, `standard_error`, `ci_low`,
    `ci_high`, `p` (two-sided, normal), `p_holm` over the tasks of that pair of arms, `status`: "ok", "constant" (the
    two arms order all images alike, so the variance is 0 and there is no p) or "nonfinite" (an undefined area).

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson 1988, paired form. The image is the sampling unit: these p-values say something
    about this network and these tasks only; claims over networks are in `claims`.
    """
    import pandas as pd

    checked = SCORES.check(single(without_scalars(scores), ("network",), name="the scores"))
    for name in ("logit", "target"):
        if name not in checked:
            raise DataError(
                f"comparing arms by image needs the variable {name!r} of SCORES; came without; keep the logits"
            )
    arms = [str(arm) for arm in checked["arm"].values]
    for reference in references:
        choose(reference, arms, "reference arm")
    rows = []
    for reference in references:
        for arm in (one for one in arms if one != reference):
            rows += _compare(checked, arm, reference, level)
    return pd.DataFrame(rows)


def _compare(scores: xr.Dataset, arm: str, reference: str, level: float) -> list[dict[str, object]]:
    pair = [scores["logit"].sel(arm=one).transpose("task", "stimulus").values for one in (arm, reference)]
    targets = scores["target"].transpose("task", "stimulus").values != 0
    rows: list[dict[str, object]] = []
    p_values = []
    for task, logit, other, target in zip(scores["task"].values, *pair, targets, strict=True):
        difference, variance = (float(value) for value in paired_delong(logit, other, target))
        defined = np.isfinite(difference)
        varied = bool(defined and variance > 1e-24)
        error = float(np.sqrt(variance)) if varied else float("nan")
        half = float(stats.norm.ppf((1 + level) / 2)) * error
        p_values.append(float(2 * stats.norm.sf(abs(difference) / error)) if varied else float("nan"))
        rows.append(
            {
                "arm": arm,
                "reference": reference,
                "task": str(task),
                "auc": float(roc_area(logit, target)),
                "auc_reference": float(roc_area(other, target)),
                "difference": difference,
                "standard_error": error,
                "ci_low": difference - half,
                "ci_high": difference + half,
                "p": p_values[-1],
                "status": "ok" if varied else "constant" if defined else "nonfinite",
            }
        )
    for row, p_holm in zip(rows, adjust(p_values, "holm"), strict=True):
        row["p_holm"] = float(p_holm)
    return rows
