"""Kinds flattened to tables with frozen columns (`columns.COLUMNS`), and written: CSV, parquet, Markdown, LaTeX."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from featattn_neuro.errors import SchemaError, StoreError, choose
from featattn_neuro.report.columns import COLUMNS, ONLY_WHERE_ASKED
from featattn_neuro.report.results import POOLED, Results
from featattn_neuro.schema import AGREEMENT, ASSOCIATION, CLAIMS, CURVES, DOSES, GAINS, SCORES, SELECTIVITY

Datasets = Mapping[str, xr.Dataset]


def selectivity_table(selectivity: Datasets) -> pd.DataFrame:
    """One row per network, task and unit. `selectivity` is SELECTIVITY by network; columns as in `COLUMNS`."""
    return _stack("selectivity", selectivity, lambda ds: _flat(SELECTIVITY.check(ds), drop=("selection_source",)))


def gains_table(gains: Datasets) -> pd.DataFrame:
    """One row per network, arm, task and unit. `gains` is GAINS by network; a `gain_set` is shown as the arm."""

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        frame = _flat(dataset[["gain"]])
        return frame if "arm" in frame else frame.rename(columns={"gain_set": "arm"})

    return _stack("gains", gains, lambda ds: rows(GAINS.check(ds)))


def association_table(association: Datasets) -> pd.DataFrame:
    """One row per network, measure, pair of tasks and layer. `association` is ASSOCIATION by network."""
    return _stack(
        "association",
        association,
        lambda ds: _flat(ASSOCIATION.check(ds)[["rho", "n_live", "status", "z"]]),
    )


def association_summary_table(association: Datasets, pooled: xr.Dataset | None = None) -> pd.DataFrame:
    """One row per network and measure, and a row `pooled` per measure where `pooled` carries p_pooled."""
    names = ["matched", "specific", "p_task_permutation"]
    each = _stack("association_summary", association, lambda ds: _flat(_present(ASSOCIATION.check(ds), names)))
    if pooled is None or "p_pooled" not in pooled:
        return each
    last = _stack("association_summary", {POOLED: pooled}, lambda ds: _flat(ds[["p_pooled"]]))
    return pd.concat([each, last], ignore_index=True) if len(each) else last


def association_checks_table(association: Datasets) -> pd.DataFrame:
    """One row per network, check, layer (and task, item): partials, reliabilities, refit null."""
    checks = {
        "partial": "covariate",
        "gain_reliability": "",
        "selectivity_reliability": "",
        "refit_null": "refit",
        "rho_standard_error": "",
    }

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        found = []
        for check, item in checks.items():
            if check in dataset:
                frame = _flat(dataset[[check]]).rename(columns={check: "value", **({item: "item"} if item else {})})
                found.append(frame.assign(check=check))
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    return _stack("association_checks", association, lambda ds: rows(ASSOCIATION.check(ds)))


def arms_table(scores: Datasets) -> pd.DataFrame:
    """One row per network, arm and task. `scores` is SCORES by network; the status says why an area is undefined."""

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        beside = [name for name in COLUMNS["arms"] if name not in ("network", "arm", "task", "status")]
        known = _present(dataset, [*beside, "arm_status"])
        frame = _flat(known.assign(reason=_why_undefined(dataset).broadcast_like(dataset["auc"])))
        status = frame["reason"].where(frame["auc"].isna(), "ok")
        if "arm_status" in frame:
            status = status.where(frame["arm_status"] == "ok", frame["arm_status"])
        return frame.drop(columns="reason").assign(status=status)

    return _stack("arms", scores, lambda ds: rows(SCORES.check(ds)))


def _why_undefined(scores: xr.Dataset) -> xr.DataArray:
    """Reason that the targets and logits give for an area that is not defined; "undefined" where they give none."""
    reason = xr.full_like(scores["auc"], "undefined", dtype="<U12")
    if "logit" in scores:
        logit = scores["logit"]
        reason = xr.where(logit.max("stimulus") == logit.min("stimulus"), "constant", reason)
        finite = logit.copy(data=np.isfinite(logit.values)).all("stimulus")
        reason = xr.where(finite, reason, "nonfinite")
    if "target" in scores:
        targets = (scores["target"] != 0).sum("stimulus")
        fewer = np.minimum(targets, scores.sizes["stimulus"] - targets)
        reason = xr.where(fewer < 2, "too_few", reason)
        reason = xr.where(fewer == 0, "single_class", reason)
    return reason.transpose(*scores["auc"].dims)


def curves_table(curves: Datasets) -> pd.DataFrame:
    """One row per network, arm, task and point of a curve. `curves` is CURVES by network."""

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        found = []
        for axis in ("updates", "examples", "choice"):
            name = f"auc_{axis}"
            if name in dataset:
                frame = _flat(dataset[[name]].reset_coords(drop=True))
                found.append(frame.rename(columns={name: "auc", axis: "at"}).assign(axis=axis))
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    return _stack("curves", curves, lambda ds: rows(CURVES.check(ds)))


def choices_table(choices: Datasets) -> pd.DataFrame:
    """One row per network, arm, task and choice of V. `choices` is CURVES with `auc_choice` by network."""

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        frame = _flat(dataset[["auc_choice"]]).rename(columns={"auc_choice": "auc"})
        return frame[frame["auc"].notna()]

    return _stack("choices", choices, lambda ds: rows(CURVES.check(ds)))


def saliency_table(agreement: Datasets) -> pd.DataFrame:
    """One row per network and layer. `agreement` is AGREEMENT by network."""

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        return _flat(_present(dataset, [str(n) for n, v in dataset.data_vars.items() if v.dims == ("layer",)]))

    return _stack("saliency", agreement, lambda ds: rows(AGREEMENT.check(ds)))


def localisation_table(agreement: Datasets) -> pd.DataFrame:
    """One row per network, score, map and layer, where maps were scored against masks."""
    kept = {name: ds for name, ds in agreement.items() if "localisation_mean" in ds}

    def rows(dataset: xr.Dataset) -> pd.DataFrame:
        names = [f"localisation_{part}" for part in ("mean", "low", "high", "status")]
        frame = _flat(dataset[names].reset_coords(drop=True)).rename(columns=lambda n: n.removeprefix("localisation_"))
        if "localisation_null" not in dataset:
            return frame
        null = xr.Dataset(
            {
                "null_mean": dataset["localisation_null"].mean("permutation"),
                "null_sd": dataset["localisation_null"].std("permutation", ddof=1),
                "p_permuted": dataset["localisation_p"],
            }
        )
        return frame.merge(_flat(null).assign(map="excess"), on=["localiser", "layer", "map"], how="left")

    return _stack("localisation", kept, lambda ds: rows(AGREEMENT.check(ds)))


def saliency_stimuli_table(agreement: Datasets) -> pd.DataFrame:
    """One row per network, layer and composite, where the per-composite scores were kept."""
    kept = {name: ds for name, ds in agreement.items() if "cue_swap" in ds}
    return _stack("saliency_stimuli", kept, lambda ds: _flat(AGREEMENT.check(ds)[["cue_swap"]]))


def doses_table(doses: Datasets) -> pd.DataFrame:
    """One row per network, task, dose and layer. `doses` is DOSES by network."""
    return _stack("doses", doses, lambda ds: _flat(DOSES.check(ds)))


def claims_table(claims: xr.Dataset) -> pd.DataFrame:
    """One row per claim. `claims` is CLAIMS."""
    flat = _flat(_present(CLAIMS.check(claims), [name for name in COLUMNS["claims"] if name != "claim"]))
    return flat.reindex(columns=list(COLUMNS["claims"]))


def claims_by_network_table(claims: xr.Dataset) -> pd.DataFrame:
    """One row per claim and network: the claim's number, its condition's, and p where each network has its own."""
    names = {"per_network": "value", "condition_per_network": "condition", "p_per_network": "p"}
    flat = _flat(_present(CLAIMS.check(claims), list(names))).rename(columns=names)
    return flat.reindex(columns=list(COLUMNS["claims_by_network"]))


def secondary_table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row per quantity printed beside a claim. `rows` is the entry `secondary` of facts.json; null = undefined."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS["secondary"])).astype(
        {"estimate": float, "ci_low": float, "ci_high": float}
    )


def arms_summary_table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """One row per arm. `rows` is the entry `arms_summary` of facts.json; null = undefined."""
    numbers = [name for name in COLUMNS["arms_summary"] if name not in ("arm", "n_networks")]
    return pd.DataFrame(list(rows), columns=list(COLUMNS["arms_summary"])).astype(dict.fromkeys(numbers, float))


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table for which `results` has the files, by name."""
    r = results
    made: dict[str, tuple[bool, Callable[[], pd.DataFrame]]] = {
        "selectivity": (bool(r.selectivity), lambda: selectivity_table(r.selectivity)),
        "gains": (bool(r.gains), lambda: gains_table(r.gains)),
        "association": (bool(r.association), lambda: association_table(r.association)),
        "association_summary": (bool(r.association), lambda: association_summary_table(r.association, r.pooled)),
        "association_checks": (bool(r.association), lambda: association_checks_table(r.association)),
        "arms": (bool(r.scores), lambda: arms_table(r.scores)),
        "arms_summary": (bool(r.facts.get("arms_summary")), lambda: arms_summary_table(r.facts["arms_summary"])),
        "curves": (bool(r.curves), lambda: curves_table(r.curves)),
        "choices": (bool(r.choices), lambda: choices_table(r.choices)),
        "saliency": (bool(r.agreement), lambda: saliency_table(r.agreement)),
        "localisation": (
            any("localisation_mean" in ds for ds in r.agreement.values()),
            lambda: localisation_table(r.agreement),
        ),
        "saliency_stimuli": (bool(r.agreement), lambda: saliency_stimuli_table(r.agreement)),
        "doses": (bool(r.doses), lambda: doses_table(r.doses)),
        "claims": (r.claims is not None, lambda: claims_table(_required(r.claims))),
        "secondary": (bool(r.facts.get("secondary")), lambda: secondary_table(r.facts["secondary"])),
        "claims_by_network": (r.claims is not None, lambda: claims_by_network_table(_required(r.claims))),
    }
    return {name: make() for name, (there, make) in made.items() if there}


def write_tables(results: Results, folder: Path | None = None) -> dict[str, Path]:
    """Write every table that `results` allows as CSV; return name → path.

    Parameters
    ----------
    folder : where to; `results.folder / "tables"` when not given.
    """
    target = results.folder / "tables" if folder is None else Path(folder)
    return {name: write_table(frame, target / f"{name}.csv") for name, frame in all_tables(results).items()}


FORMATS = (".csv", ".parquet", ".md", ".tex")


def write_table(table: pd.DataFrame, path: Path | str) -> Path:
    """Write `table` in the format of the path's suffix and return the path.

    Parameters
    ----------
    path : ".csv" (UTF-8, shortest digits that read back to the same float), ".parquet" (types kept; needs pyarrow),
        ".md" (Markdown) or ".tex" (LaTeX tabular with booktabs): the last two for people, 4 significant digits,
        undefined as an en dash.

    The file is written under a temporary name in the same folder and renamed, so it is whole or not there.

    Raises
    ------
    ConfigError : another suffix. StoreError : the folder cannot be written, or a library for the format is missing.
    """
    path = Path(path)
    kind = choose(path.suffix, FORMATS, "format of a table")
    if kind == ".csv":
        data = table.to_csv(index=False, lineterminator="\n").encode("utf-8")
    elif kind == ".parquet":
        buffer = io.BytesIO()
        try:
            table.to_parquet(buffer, index=False)
        except ImportError as error:
            raise _missing("parquet", "pyarrow") from error
        data = buffer.getvalue()
    else:
        data = (_markdown(table) if kind == ".md" else _latex(table)).encode("utf-8")
    return write_atomic(path, data)


def _missing(what: str, library: str) -> StoreError:
    return StoreError(
        f"wanted to write {what}; {library} is not installed; pip install 'featattn_neuro[tables]', or write .csv"
    )


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text with four significant digits, undefined as an en dash."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "–" if value != value else f"{value:.4g}".replace("-", "−")
        return "–" if value is None else str(value)

    return table.map(cell)


def _markdown(table: pd.DataFrame) -> str:
    shown = _for_people(table)
    shown = shown.map(lambda text: text.replace("|", "\\|"))
    try:
        return str(shown.to_markdown(index=False, disable_numparse=True)) + "\n"
    except ImportError as error:
        raise _missing("Markdown", "tabulate") from error


def _latex(table: pd.DataFrame) -> str:
    shown = _for_people(table).rename(columns=str)
    shown.columns = [name.replace("_", r"\_") for name in shown.columns]
    escapes = str.maketrans({"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
                             "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                             "−": "$-$", "–": "--", "|": r"\textbar{}"})  # fmt: skip
    return str(shown.map(lambda text: text.translate(escapes)).to_latex(index=False, escape=False))


def write_atomic(path: Path, data: bytes) -> Path:
    """Write `data` to a temporary name beside `path`, then rename; `StoreError` when the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise StoreError(f"wanted to write {str(path)!r}; came {error.strerror}; choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StoreError(
            f"wanted to write {str(path)!r}; came {error.strerror}; free space or change folder"
        ) from error
    return path


def column_meanings(table: str) -> dict[str, str]:
    """Column → meaning of one table; an unknown name prints the names.

    >>> column_meanings("claims_by_network")["value"]
    "the claim's number in this network"
    """
    return COLUMNS[choose(table, COLUMNS, "table")]


def _stack(table: str, datasets: Datasets, flatten: Callable[[xr.Dataset], pd.DataFrame]) -> pd.DataFrame:
    """Flatten each network's Dataset, say which network it is, and keep the frozen columns that have content."""
    frames = []
    for name, dataset in datasets.items():
        frame = flatten(dataset)
        if len(frame):
            frames.append(frame if "network" in frame else frame.assign(network=name))
    asked = ONLY_WHERE_ASKED.get(table, ())
    wanted = [name for name in COLUMNS[table] if name not in asked or any(name in frame for frame in frames)]
    if not frames:
        return pd.DataFrame(columns=wanted)
    return pd.concat(frames, ignore_index=True).reindex(columns=wanted)


def _flat(dataset: xr.Dataset, drop: tuple[str, ...] = ()) -> pd.DataFrame:
    """Cross product of the dimensions as rows, variables and coordinates as columns, ints kept as ints."""
    dataset = dataset.drop_vars([name for name in drop if name in dataset])
    if not dataset.data_vars:
        return pd.DataFrame()
    kept = {d for v in dataset.data_vars.values() for d in v.dims}
    dataset = dataset.drop_dims([d for d in dataset.dims if d not in kept])
    if not dataset.dims:
        return pd.DataFrame([{str(name): dataset[name].item() for name in dataset.variables}])
    return dataset.to_dataframe(dim_order=list(dataset.dims)).reset_index()


def _present(dataset: xr.Dataset, names: list[str]) -> xr.Dataset:
    return dataset[[name for name in names if name in dataset]]


def _required(dataset: xr.Dataset | None) -> xr.Dataset:
    if dataset is None:
        raise SchemaError("wanted a Dataset of kind CLAIMS; came None; run the job to its last stage")
    return dataset
