"""Kernels of `arrays` under their public names: numbers in, numbers out, no labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

from featattn_neuro.arrays import choice as _choice
from featattn_neuro.arrays import class_selectivity as _classes
from featattn_neuro.arrays import discrimination as _discrimination
from featattn_neuro.arrays import orientation as _orientation
from featattn_neuro.arrays import signal_detection as _detection
from featattn_neuro.arrays import sparseness as _sparseness
from featattn_neuro.arrays import tuning_fits as _fits
from featattn_neuro.arrays import variability as _variability
from featattn_neuro.errors import KernelError

P = ParamSpec("P")
R = TypeVar("R")


def _public(kernel: Callable[P, R], *, tensors: bool = True) -> Callable[P, R]:
    """`kernel` of `arrays`, whose complaints about its input become errors that the command line prints alone.

    They are `DataError`s, and still the `ValueError`s that the kernel's docstring names.

    tensors : whether the kernel computes on torch tensors itself; otherwise they are moved to the CPU as float64.
    """

    @wraps(kernel)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = args, kwargs
        if not tensors:
            given = [_array(one) for one in args], {name: _array(one) for name, one in kwargs.items()}
        try:
            return kernel(*given[0], **given[1])
        except ValueError as error:
            raise KernelError(f"{kernel.__name__}: {error}") from error

    return call


def _array(value: Any) -> Any:
    """A torch tensor on whatever device as an array, floating point as float64; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    found = value.detach()
    return (found.double() if found.is_floating_point() else found).cpu().numpy()


dprime = _public(_discrimination.dprime)
roc_area = _public(_discrimination.roc_area)
discriminate = _public(_discrimination.discriminate)
delong_interval = _public(_discrimination.delong_interval)
roc_curve = _public(_discrimination.roc_curve, tensors=False)
signal_detection = _public(_detection.signal_detection, tensors=False)
eta_squared = _public(_classes.eta_squared, tensors=False)
class_selectivity = _public(_classes.class_selectivity, tensors=False)
lifetime_sparseness = _public(_sparseness.lifetime_sparseness, tensors=False)
population_sparseness = _public(_sparseness.population_sparseness, tensors=False)
orientation_selectivity = _public(_orientation.orientation_selectivity, tensors=False)
direction_selectivity = _public(_orientation.direction_selectivity, tensors=False)
fit_tuning = _public(_fits.fit_tuning, tensors=False)
fano_factor = _public(_variability.fano_factor, tensors=False)
noise_correlation = _public(_variability.noise_correlation, tensors=False)
choice_probability = _public(_choice.choice_probability, tensors=False)
grand_choice_probability = _public(_choice.grand_choice_probability, tensors=False)
neurometric_function = _public(_choice.neurometric_function, tensors=False)
