"""The stages of a run. Each takes the job of one network, writes its files, and returns their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from featattn_neuro.arrays.masks import exclusive
from featattn_neuro.errors import ConfigError
from featattn_neuro.io.splits import near_duplicates
from featattn_neuro.io.stimuli import Stimuli
from featattn_neuro.io.store import load_kind, save_kind, write_bytes_atomic, write_text_atomic
from featattn_neuro.jobs.config import GAIN_ARMS, THEORY_ARMS
from featattn_neuro.jobs.context import SPLITS, NetworkJob, labels_of
from featattn_neuro.jobs.fitting import ArmFit, fit_arm, fit_curves, mean_auc, rule_of
from featattn_neuro.measures.arms import describe_arms
from featattn_neuro.measures.association_errors import gain_covariance_error
from featattn_neuro.measures.gain_selectivity import gain_selectivity
from featattn_neuro.measures.localisation import localisation
from featattn_neuro.measures.reliability import halves_reliability, refit_location
from featattn_neuro.measures.saliency_agreement import saliency_agreement
from featattn_neuro.measures.selectivity import selectivity
from featattn_neuro.nets.arms import arm_network, arm_start
from featattn_neuro.nets.batches import as_tensor
from featattn_neuro.nets.detectors import head_detectors, logistic_detectors
from featattn_neuro.nets.doses import dose_curve
from featattn_neuro.nets.gain_sets import from_gain_set, to_gain_set
from featattn_neuro.nets.hooks import hooked
from featattn_neuro.nets.learning import Schedule, fit_tasks, start
from featattn_neuro.nets.masked_maps import leverage, object_maps
from featattn_neuro.nets.parameterisations import LOG
from featattn_neuro.nets.permuted_scores import permuted_scores
from featattn_neuro.nets.randomised import randomised_network
from featattn_neuro.nets.recording import record_activations
from featattn_neuro.nets.refit import refit_gains
from featattn_neuro.nets.saliency import saliency_by_layer
from featattn_neuro.nets.training import head_inputs, train_classifier
from featattn_neuro.nets.weight_norms import filter_weight_norms
from featattn_neuro.nets.weights import weights_bytes

Progress = Callable[[float], None]


def _save(job: NetworkJob, dataset: xr.Dataset, path: Path) -> None:
    """Write a Dataset with the network's name and a seed: of its permutations where it has one, else the network's."""
    save_kind(dataset.assign_attrs(network_name=job.name, seed=dataset.attrs.get("seed", job.index)), path)


def train_network(job: NetworkJob, progress: Progress) -> list[str]:
    """Splits, reference training (or given weights), frozen detectors; what was drawn is written down."""
    files = [_write_splits(job)]
    network = job.build()
    facts: dict[str, Any] = {"network": job.name, "seed": job.index, "omitted": ", ".join(job.omitted)}
    train = job.config.networks.train
    if train is not None:
        singles = job.splits["R"]
        seen = singles.select(~np.isin(labels_of(singles), job.omitted))
        labels = np.array([job.classes.index(label) for label in labels_of(seen).tolist()])
        train_classifier(
            network.module,
            as_tensor(seen, network.preprocess),
            labels,
            epochs=train.epochs,
            batch_size=train.batch_size,
            rate=train.rate,
            seed=job.index,
        )
        write_bytes_atomic(job.out / "networks" / f"{job.name}.safetensors", weights_bytes(network.module))
        files.append(f"networks/{job.name}.safetensors")
    progress(0.7)
    files.append(_write_detectors(job))
    facts |= _reference_facts(job)
    path = job.out / "networks" / f"{job.name}.json"
    write_text_atomic(path, json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return [*files, f"networks/{job.name}.json"]


def _write_splits(job: NetworkJob) -> str:
    rows = [*(job.splits[s] for s in SPLITS), *(c.stimuli for c in job.composites.values())]
    table = pd.concat(
        [
            pd.DataFrame({"stimulus": s.id, "label": s.label, "split": s.split, "constituents": s.constituents})
            for s in rows
        ]
    )
    write_text_atomic(job.out / "splits" / f"{job.name}.csv", table.to_csv(index=False))
    return f"splits/{job.name}.csv"


def _write_detectors(job: NetworkJob) -> str:
    features = head_inputs(job.network.module, job.head, job.single_images("R"))
    target = job.targets(job.splits["R"]).values
    if job.pretrained is not None and job.pretrained.detector == "head":
        outputs = np.arange(len(job.classes))
        head = job.network.module.get_submodule(job.head)
        if not isinstance(head, torch.nn.Linear):
            raise ConfigError(
                f"detector: head needs a linear layer; {job.head!r} is {type(head).__name__}; use logistic"
            )
        detector = head_detectors(head, outputs, features, target)
        rule = "the network's own head, centred over outputs, calibrated on single images of R"
    else:
        detector = logistic_detectors(features, target)
        rule = "balanced logistic regression, C = 1, on single images of R"
    job.cut.prefix(job.single_images("R")[:2])
    dataset = to_gain_set(
        job.cut,
        start(job.cut, detector),
        job.classes,
        job.splits["R"].sources(),
        attrs={"arm": "ungained", "head_rule": rule, "network_name": job.name},
    )
    _save(job, dataset, job.out / "detectors" / f"{job.name}.nc")
    return f"detectors/{job.name}.nc"


def _reference_facts(job: NetworkJob) -> dict[str, Any]:
    module, singles = job.network.module, job.splits["P"]
    inputs = job.single_images("P")
    outputs = []
    with torch.no_grad():
        for start_ in range(0, len(inputs), 100):
            outputs.append(module(inputs[start_ : start_ + 100].clone()))
    found = torch.cat(outputs).numpy()
    facts: dict[str, Any] = {"weights_sha256": job.network.weights_sha256, "source": job.network.source}
    if found.shape[1] == len(job.classes):
        known = ~np.isin(labels_of(singles), job.omitted)
        truth = np.array([job.classes.index(label) for label in labels_of(singles).tolist()])
        facts["reference_accuracy"] = float((found.argmax(axis=1) == truth)[known].mean())
    pairs = near_duplicates(job.drawn)
    facts["near_duplicates"] = len(pairs)
    facts["near_duplicates_across_splits"] = int((pairs["first_split"] != pairs["second_split"]).sum())
    facts["prefix_cached"] = "yes" if job.cut.cached else f"no: {job.cut.reason}"
    facts["filters"] = ", ".join(f"{layer} {count}" for layer, count in job.cut.n_filters.items())
    return facts


def record(job: NetworkJob, progress: Progress) -> list[str]:
    """Mean activation of every filter on S, un-gained, and the leverage of every filter on every detector."""
    composites = job.composites["S"].stimuli
    activations = record_activations(
        job.network.module,
        composites,
        job.layers,
        preprocess=job.network.preprocess,
        network_name=job.name,
        batch_size=50,
        progress=lambda done, total: progress(0.5 * done / total),
    )
    found = leverage(job.cut, job.images("S"), job.detector)
    values = np.concatenate([found[layer] for layer in job.cut.layers], axis=2)
    activations["leverage"] = (("task", "stimulus", "unit"), values)
    activations = activations.assign_coords(task=job.classes)
    _save(job, activations, job.out / "activations" / f"{job.name}.nc")
    return [f"activations/{job.name}.nc"]


def learn_arm(job: NetworkJob, arm: str, progress: Progress) -> list[str]:
    """One arm: learn on G, choose on V where there is a choice, score on P."""
    if arm in ("permuted", "permuted_head"):
        origin = load_kind(job.out / "arms" / job.name / f"{_ORIGIN[arm]}.gains.nc", "GAINS")
        fit = fit_arm(job, arm, progress, origin=origin)
    else:
        fit = fit_arm(job, arm, progress)
    folder = job.out / "arms" / job.name
    _save(job, _scores(job, arm, fit), folder / f"{arm}.nc")
    files = [f"arms/{job.name}/{arm}.nc"]
    if fit.gains is not None:
        _save(job, fit.gains, folder / f"{arm}.gains.nc")
        files.append(f"arms/{job.name}/{arm}.gains.nc")
    if fit.choices is not None:
        _save(job, fit.choices, folder / f"{arm}.choices.nc")
        files.append(f"arms/{job.name}/{arm}.choices.nc")
    return files


_ORIGIN = {"permuted": "gain", "permuted_head": "gain_head"}


def _scores(job: NetworkJob, arm: str, fit: ArmFit) -> xr.Dataset:
    composites = job.composites["P"].stimuli
    target = job.target_matrix("P")
    nowhere = np.full(target.shape, np.nan)
    logits = nowhere if fit.logits is None else fit.logits
    auc = fit.auc if fit.auc is not None else mean_auc(logits, target)
    return xr.Dataset(
        {
            "auc": (("arm", "task"), auc[None]),
            "logit": (("arm", "task", "stimulus"), logits[None]),
            "placement": (("arm", "task", "stimulus"), (nowhere if fit.placement is None else fit.placement)[None]),
            "target": (("task", "stimulus"), target.astype(np.int8)),
            "trained_numbers": ("arm", [fit.trained_numbers]),
            "novel": ("task", [int(name in job.omitted) for name in job.classes]),
            "rate": ("arm", [fit.rate]),
            "penalty": ("arm", [fit.penalty]),
            "arm_status": ("arm", [fit.status]),
            "strength": ("arm", [fit.strength]),
            "strength_best_on_test": ("arm", [fit.strength_best_on_test]),
            **{name: (("arm", "task"), values[None]) for name, values in _beside(job, fit).items()},
        },
        coords={"arm": [arm], "task": job.classes, "stimulus": np.asarray(composites.id), **composites.coordinates()},
        attrs={"kind": "SCORES", "network_name": job.name, "seed": job.index},
    )


def _beside(job: NetworkJob, fit: ArmFit) -> dict[str, np.ndarray]:
    """What is kept of an arm per task beside its score; the same variables for every arm of a run."""
    nothing = np.full(len(job.classes), np.nan)
    found = {}
    if any(arm in THEORY_ARMS for arm in job.config.arms):
        found["auc_best_on_test"] = nothing if fit.auc_best_on_test is None else fit.auc_best_on_test
    if job.config.learning.reference:
        found["reference_score"] = nothing if fit.reference is None else fit.reference
        found["reference_score_off"] = nothing if fit.reference_off is None else fit.reference_off
    return found


def learn_curves(job: NetworkJob, arm: str, progress: Progress) -> list[str]:
    """Learning curves of one arm over examples per class and over updates."""
    _save(job, fit_curves(job, arm, progress), job.out / "curve_parts" / job.name / f"{arm}.nc")
    return [f"curve_parts/{job.name}/{arm}.nc"]


def measure_doses(job: NetworkJob, progress: Progress) -> list[str]:
    """The gain arm (frozen head) with its log gains scaled: ROC area on P, and the SD of log g."""
    place = rule_of("gain", job.config.arms["gain"]).place
    cut = job.arm_cut(place)
    assert cut is not None
    rows = job.arm_rows(place, "P")
    learned = from_gain_set(cut, load_kind(job.out / "arms" / job.name / "gain.gains.nc", "GAINS"))
    scores, spread = dose_curve(cut, rows, learned, job.config.doses)
    target = job.target_matrix("P")
    dataset = xr.Dataset(
        {
            "auc": (("dose", "task"), np.stack([mean_auc(z, target) for z in scores])),
            "sd_log_gain": (("dose", "layer", "task"), spread),
        },
        coords={"dose": np.asarray(job.config.doses, dtype=float), "task": job.classes, "layer": list(cut.layers)},
        attrs={"kind": "DOSES", "network_name": job.name},
    )
    _save(job, dataset, job.out / "doses" / f"{job.name}.nc")
    progress(1.0)
    return [f"doses/{job.name}.nc"]


def learn_reference_gain(job: NetworkJob, progress: Progress) -> list[str]:
    """One set of gains for the reference task: every class detected at once on single images of G, read-outs frozen.

    What it amplifies, naming images amplifies, whatever the cued task: a covariate, never subtracted.
    """
    chosen = load_kind(job.out / "arms" / job.name / "gain.nc", "SCORES")
    schedule = _gain_schedule(job, float(chosen["rate"][0]), float(chosen["penalty"][0]))
    rows = job.cut.prefix(job.single_images("G"))
    target = job.targets(job.splits["G"]).transpose("task", "stimulus").values
    made = rule_of("gain", job.config.arms["gain"]).parameterisation
    initial = start(job.cut, job.detector, shared=True, parameterisation=made)
    fit = fit_tasks(job.cut, rows, target, initial, schedule, train_gains=True, train_head=False, names=job.classes)
    attrs: dict[str, str | float | int] = {"arm": "reference", "head_rule": "frozen", "network_name": job.name}
    shared = to_gain_set(job.cut, fit.state, job.classes, job.splits["G"].sources(), attrs=attrs)
    one = shared.isel(task=0, drop=True).drop_vars(["head_weight", "head_bias"])
    _save(job, one, job.out / "arms" / job.name / "reference.gains.nc")
    progress(1.0)
    return [f"arms/{job.name}/reference.gains.nc"]


def learn_halves(job: NetworkJob, progress: Progress) -> list[str]:
    """The gain arm learned on disjoint halves of G: how reliable are gains?"""
    chosen = load_kind(job.out / "arms" / job.name / "gain.nc", "SCORES")
    schedule = _gain_schedule(job, float(chosen["rate"][0]), float(chosen["penalty"][0]))
    rule = rule_of("gain", job.config.arms["gain"])
    cut = job.arm_cut(rule.place)
    assert cut is not None
    rows, target = job.arm_rows(rule.place, "G"), job.target_matrix("G")
    middle = target.shape[1] // 2
    files = []
    for k, part in enumerate((slice(0, middle), slice(middle, None))):
        initial = arm_start(rule, cut, job.detector, job.network.module, job.images("G")[:1])
        fit = fit_tasks(
            cut, [r[part] for r in rows], target[:, part], initial, schedule, train_gains=True, train_head=False,
            names=job.classes,
        )  # fmt: skip
        sources = job.composites["G"].stimuli.select(np.arange(target.shape[1])[part]).sources()
        dataset = to_gain_set(cut, fit.state, job.classes, sources, attrs={"arm": "gain", "half": k})
        files.append(f"halves/{job.name}_{'ab'[k]}.nc")
        _save(job, dataset, job.out / files[-1])
        progress((k + 1) / 2)
    return files


def _gain_schedule(job: NetworkJob, rate: float, penalty: float) -> Schedule:
    """How the arm of gains learns at one of its choices."""
    config = job.config.learning
    return Schedule(
        rate=rate, penalty=penalty, batch_size=config.batch_size, epochs=config.epochs, seed=job.index,
        norm=job.config.arms["gain"].penalty_norm,
    )  # fmt: skip


def learn_refits(job: NetworkJob, progress: Progress) -> list[str]:
    """Gains refitted to permuted labels at `statistics.refit_layers`, read-out included."""
    settings = job.config.statistics
    schedules = [_gain_schedule(job, rate, penalty) for rate, penalty in job.config.arms["gain"].choices()]
    rule = rule_of("gain", job.config.arms["gain"])
    cut = arm_network(job.network.module, job.refit_layers, job.head, rule.place)
    assert cut is not None
    rows = cut.prefix(job.images("G"))
    features = head_inputs(job.network.module, job.head, job.single_images("R"))
    gains = refit_gains(
        cut, rows, job.target_matrix("G"), features, job.targets(job.splits["R"]).values, schedules,
        refits=settings.refits, seed=[settings.seed, job.index],
        choice_rows=cut.prefix(job.images("V")), choice_target=job.target_matrix("V"),
        parameterisation=rule.parameterisation,
        progress=lambda done, total: progress(done / total),
    )  # fmt: skip
    units = job.detector_set.sel(unit=np.isin(job.detector_set["layer"].values, cut.layers))
    dataset = xr.Dataset(
        {"gain": (("gain_set", "task", "unit"), gains)},
        coords={"gain_set": [f"refit_{k}" for k in range(len(gains))], "task": job.classes,
                **{c: units[c] for c in ("unit", "layer", "channel", "stage")}},
        attrs={"kind": "GAINS", "null": "labels permuted; read-out, rate and penalty, gains made again",
               "statistics_seed": settings.seed},
    )  # fmt: skip
    if rule.parameterisation != LOG:  # said as in the gains of the arm
        dataset = dataset.assign_attrs(parameterisation=str(rule.parameterisation))
    _save(job, dataset, job.out / "refits" / f"{job.name}.nc")
    return [f"refits/{job.name}.nc"]


def measure_selectivity(job: NetworkJob, progress: Progress) -> list[str]:
    """d' and ROC area of every filter and task on S."""
    activations = load_kind(job.out / "activations" / f"{job.name}.nc", "ACTIVATIONS")
    target = job.targets(job.composites["S"].stimuli)
    found = selectivity(activations, target, permutations=200, seed=job.config.statistics.seed)
    _save(job, found, job.out / "selectivity" / f"{job.name}.nc")
    half_files = []
    order = np.arange(activations.sizes["stimulus"])
    for k in range(2):
        part = activations.isel(stimulus=order % 2 == k)
        half = selectivity(part, target.sel(stimulus=part["stimulus"].values))
        half_files.append(f"halves/{job.name}_selectivity_{'ab'[k]}.nc")
        _save(job, half, job.out / half_files[-1])
        progress((k + 1) / 2)
    return [f"selectivity/{job.name}.nc", *half_files]


def associate(job: NetworkJob, progress: Progress) -> list[str]:
    """Association of gains (frozen head) with held-out selectivity, its reliabilities and the refit null."""
    gains = load_kind(job.out / "arms" / job.name / "gain.gains.nc", "GAINS")
    measured = load_kind(job.out / "selectivity" / f"{job.name}.nc", "SELECTIVITY")
    settings = job.config.statistics
    covariates = _covariates(job, measured)
    found = gain_selectivity(
        gains, measured, covariates=covariates, permutations=settings.permutations, seed=settings.seed
    )
    last = job.layers[-1]
    if "readout_weight" in covariates:  # only the last layer is read out; elsewhere this covariate means nothing
        elsewhere = (found["layer"] != last) & (found["covariate"] == "readout_weight")
        found["partial"] = found["partial"].where(~elsewhere)
    progress(0.6)
    halves = [load_kind(job.out / "halves" / f"{job.name}_{h}.nc", "GAINS") for h in "ab"]
    measured_halves = [load_kind(job.out / "halves" / f"{job.name}_selectivity_{h}.nc", "SELECTIVITY") for h in "ab"]
    found["gain_reliability"] = halves_reliability(halves[0]["gain"], halves[1]["gain"], measured["live"])
    found["selectivity_reliability"] = halves_reliability(
        abs(measured_halves[0]["dprime"]), abs(measured_halves[1]["dprime"]), measured["live"]
    )
    if settings.refit_layers:
        refits = load_kind(job.out / "refits" / f"{job.name}.nc", "GAINS")
        found["refit_null"] = refit_location(refits, measured).reindex(layer=found["layer"].values)
        found["rho_standard_error"] = gain_covariance_error(refits, measured).reindex(layer=found["layer"].values)
    _save(job, found, job.out / "association" / f"{job.name}.nc")
    return [f"association/{job.name}.nc"]


def _covariates(job: NetworkJob, measured: xr.Dataset) -> xr.Dataset:
    """What could explain the association otherwise; nothing measured after the gain."""
    table = measured[["mean_response", "sd_response", "zero_fraction"]]
    norms = filter_weight_norms(job.network.module, job.layers, job.images("S")[:2])
    layer, channel = measured["layer"].values.astype(str), measured["channel"].values
    if set(layer) <= set(norms):
        table["weight_norm"] = ("unit", np.array([norms[a][b] for a, b in zip(layer, channel, strict=True)]))
    if job.config.statistics.reference_gain:
        reference = load_kind(job.out / "arms" / job.name / "reference.gains.nc", "GAINS")["gain"]
        table["reference_gain"] = np.log(reference.sel(unit=measured["unit"].values).reset_coords(drop=True))
    weight = np.abs(job.detector.weight)
    last = layer == job.layers[-1]
    if weight.shape[1] == int(last.sum()) and _read_out(job):
        values = np.zeros((len(job.classes), len(layer)))
        values[:, last] = weight[:, channel[last]]
        table = table.assign(readout_weight=(("task", "unit"), values)).assign_coords(task=job.classes)
    return table


def _read_out(job: NetworkJob) -> bool:
    """Whether what the head reads are the spatial means of the last gained layer, filter by filter."""
    module, site = job.network.module, job.layers[-1]
    if site not in dict(module.named_modules()):  # an operation: what is behind it is not looked for
        return False
    seen: list[torch.Tensor] = []
    with hooked(module, {site: lambda part, inputs, output: seen.append(output.detach().double().cpu())}):
        features = head_inputs(module, job.head, job.images("S")[:2])
    means = (seen[0].flatten(2).mean(dim=2) if seen[0].ndim > 2 else seen[0])[: len(features)].numpy()
    return means.shape == features.shape and bool(np.allclose(means, features, rtol=1e-4, atol=1e-6))


def measure_saliency(job: NetworkJob, progress: Progress) -> list[str]:
    """Cue swap of gain-weighted saliency on P with its nulls, scores beside it, and maps of the composites shown."""
    settings = job.config.saliency
    assert settings is not None
    gains = load_kind(job.out / "arms" / job.name / "gain.gains.nc", "GAINS")
    measured = load_kind(job.out / "selectivity" / f"{job.name}.nc", "SELECTIVITY")
    module, seed = job.network.module, job.config.statistics.seed
    stimuli, masks, preprocess = _marked_composites(job)
    flags = masks["mask"].values
    masked = object_maps(module, stimuli, job.layers, flags, preprocess=preprocess)
    agreement = saliency_agreement(
        masked, gains, measured["live"], permutations=settings.permutations, seed=seed
    )  # fmt: skip
    progress(0.3)
    other = randomised_network(module, seed=job.index)
    masked = object_maps(other, stimuli, job.layers, flags, preprocess=preprocess)
    shuffled = saliency_agreement(masked, gains, measured["live"], permutations=1, seed=seed)
    agreement = agreement.assign(randomised_score=shuffled["layer_score"])
    usable = [str(layer) for layer in agreement["layer"].values[agreement["usable"].values == 1]]
    # a layer without a live filter has no maps: its scores are NaN, and its status says why
    alive = set(measured["layer"].values[measured["live"].values != 0].astype(str).tolist())
    usable = [layer for layer in usable if layer in alive]
    options: dict[str, Any] = {"preprocess": preprocess, "relative_to_mean": True, "live": measured["live"]}
    progress(0.5)
    if usable:
        maps = saliency_by_layer(module, gains, stimuli, usable, relative=False, **options)
        baselines = {"randomised": saliency_by_layer(other, gains, stimuli, usable, relative=False, **options)}
        draws, null = settings.localisation_permutations, None
        if draws:
            null = permuted_scores(module, gains, stimuli, usable, masks, permutations=draws, seed=seed, **options)
        agreement = localisation(maps, masks, baselines=baselines, null=null, agreement=agreement)
        means = agreement["localisation_mean"].sel(localiser="mass_in_mask")
        agreement = agreement.assign(
            mass_in_mask=means.sel(map="excess", drop=True).drop_vars("localiser"),
            mass_in_mask_plain=means.sel(map="activation", drop=True).drop_vars("localiser"),
        )
    _save(job, agreement, job.out / "agreement" / f"{job.name}.nc")
    return [f"agreement/{job.name}.nc", *_saliency_maps(job, stimuli, gains, usable, options)]


def _saliency_maps(
    job: NetworkJob, stimuli: Stimuli, gains: xr.Dataset, usable: list[str], options: dict[str, Any]
) -> list[str]:
    """Maps that the page shows: some composites at up to three layers, and contact sheets of each class at the last."""
    settings, module = job.config.saliency, job.network.module
    files: list[str] = []
    assert settings is not None
    if not usable:
        return files
    shown = stimuli.select(np.arange(min(settings.shown, len(stimuli))))
    for layer in dict.fromkeys(usable[k] for k in (0, len(usable) // 2, -1)):
        found = saliency_by_layer(module, gains, shown, [layer], top=3, relative=False, **options)[layer]
        path = f"saliency/{job.name}_{layer.replace('.', '_')}.nc"
        _save(job, found, job.out / path)
        files.append(path)
    if settings.sheet:
        layer, shown = usable[-1], stimuli.select(_sheet_positions(stimuli, job.classes, settings.sheet))
        found = saliency_by_layer(module, gains, shown, [layer], relative=False, activation=False, **options)[layer]
        path = f"sheets/{job.name}_{layer.replace('.', '_')}.nc"
        _save(job, found.assign_attrs(images_per_task=settings.sheet), job.out / path)
        files.append(path)
    return files


def _sheet_positions(stimuli: Stimuli, classes: list[str], count: int) -> np.ndarray:
    """The first `count` composites of each class, each once."""
    members = np.array([[name in str(label).split("|") for label in labels_of(stimuli)] for name in classes])
    return np.flatnonzero((members & (np.cumsum(members, axis=1) <= count)).any(axis=0))


def _marked_composites(job: NetworkJob) -> tuple[Stimuli, xr.Dataset, Any]:
    """Composites of P whose objects are known, their masks in pixels of the network's input, how they are preprocessed.

    Arrays are shown at twice the side, so that each object has the size at which gains were learned.
    """
    settings, preprocess = job.config.saliency, job.network.preprocess
    assert settings is not None
    if settings.composites == "arrays":
        if preprocess is not None:
            sides = {name: 2 * side for name in ("size", "crop") if (side := getattr(preprocess, name)) is not None}
            preprocess = replace(preprocess, **sides)
        stimuli, masks = job.arrays.stimuli, job.arrays.masks()
    else:
        pairs = job.composites["P"]
        ink = job.splits["P"].pixels().mean(axis=1) > settings.threshold
        alone = exclusive(np.stack([ink[pairs.first], ink[pairs.second]], axis=1))
        stimuli = pairs.stimuli
        labels = np.array([str(label).split("|") for label in labels_of(stimuli)])
        masks = xr.Dataset(
            {"mask": (("stimulus", "object", "y", "x"), alone.astype(np.uint8))},
            {"object_label": (("stimulus", "object"), labels), **stimuli.coordinates()},
            {"kind": "MASKS"},
        )
    if preprocess is not None:  # masks of the composites as the network sees them
        rows, columns = preprocess.pixels_shown(masks.sizes["y"], masks.sizes["x"], decoded=False)
        masks = masks.isel(y=rows, x=columns)
    return stimuli, masks, preprocess


def gather(job: NetworkJob, progress: Progress) -> list[str]:
    """The arms of one network side by side: SCORES, GAINS, CURVES, and what V chose among (CURVES)."""
    folder = job.out / "arms" / job.name
    parts = [load_kind(folder / f"{arm}.nc", "SCORES") for arm in job.config.arm_names()]
    scores = xr.concat(parts, "arm", data_vars="minimal", coords="minimal", join="exact", compat="equals",
                       combine_attrs="drop_conflicts")  # fmt: skip
    curves = None
    if job.config.curves is not None:
        made = [load_kind(job.out / "curve_parts" / job.name / f"{a}.nc", "CURVES") for a in job.config.curve_arms()]
        curves = xr.concat(made, "arm", join="exact", combine_attrs="drop_conflicts")
    _save(job, describe_arms(scores, curves), job.out / "scores" / f"{job.name}.nc")
    arms = [arm for arm in (*GAIN_ARMS, "bounded") if arm in job.config.arms]
    sets = [load_kind(folder / f"{arm}.gains.nc", "GAINS").expand_dims(arm=[arm]) for arm in arms]
    shared = sets[0][["training_source", "feature_scale"]].isel(arm=0, drop=True)
    gains = xr.concat([s.drop_vars(["training_source", "feature_scale"]) for s in sets], "arm", join="exact",
                      combine_attrs="drop")  # fmt: skip
    # what one arm says of itself alone, such as its parameterisation, is in its own file
    gains.attrs = {k: v for k, v in sets[0].attrs.items() if all(k in s.attrs and s.attrs[k] == v for s in sets)}
    _save(job, gains.merge(shared), job.out / "gains" / f"{job.name}.nc")
    files = [f"scores/{job.name}.nc", f"gains/{job.name}.nc"]
    if curves is not None:
        _save(job, curves, job.out / "curves" / f"{job.name}.nc")
        files.append(f"curves/{job.name}.nc")
    if choices := _choices(job):
        _save(
            job,
            xr.concat(choices, "arm", join="outer", combine_attrs="drop_conflicts"),
            job.out / "choices" / f"{job.name}.nc",
        )
        files.append(f"choices/{job.name}.nc")
    progress(1.0)
    return files


def _choices(job: NetworkJob) -> list[xr.Dataset]:
    """ROC areas on V of every choice of the arms that had several, each with rate, penalty and strength per arm."""
    found = []
    for arm, config in job.config.arms.items():
        path = job.out / "arms" / job.name / f"{arm}.choices.nc"
        if max(len(config.choices()), len(config.strengths)) < 2 or not path.is_file():
            continue
        one = load_kind(path, "CURVES")
        nowhere = xr.full_like(one["choice"], np.nan, dtype=float)
        settings = {what: one.coords.get(what, nowhere) for what in ("rate", "penalty", "strength")}
        found.append(
            one.assign_coords({k: v.reset_coords(drop=True).expand_dims(arm=[arm]) for k, v in settings.items()})
        )
    return found


def shown_stimuli(job: NetworkJob) -> dict[str, list[dict[str, str]]]:
    """Write composites of P as PNG: the first ones, so that a reviewer sees what was shown, and those of the sheets.

    Returns
    -------
    rows with id, file, label, network, split and constituents: "shown" and "sheets".
    """
    from io import BytesIO

    from PIL import Image

    settings = job.config.saliency
    arranged = settings is not None and settings.composites == "arrays"
    composites = job.arrays.stimuli if arranged else job.composites["P"].stimuli
    first = np.arange(min(6 if settings is None else settings.shown, len(composites)))
    sheets = _sheet_positions(composites, job.classes, 0 if settings is None else settings.sheet)
    rows = {}
    for k in sorted({*first.tolist(), *sheets.tolist()}):
        pixels = np.clip(composites[k] * 255, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        name = f"{job.name}_{str(composites.id[k])[:12]}.png"
        buffer = BytesIO()
        picture.save(buffer, format="PNG")
        write_bytes_atomic(job.out / "stimuli" / name, buffer.getvalue())
        rows[k] = {
            "id": str(composites.id[k]), "file": name, "label": str(labels_of(composites)[k]), "network": job.name,
            "split": "P", "constituents": str(composites.constituents[k]),
        }  # fmt: skip
    return {"shown": [rows[k] for k in first.tolist()], "sheets": [rows[k] for k in sheets.tolist()]}
