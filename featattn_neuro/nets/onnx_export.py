"""A plain (folded) network as ONNX, checked against the network by running both."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.nets.folding import check_unhooked
from featattn_neuro.nets.hooks import evaluating

TOLERANCE = 1e-4
"""Largest difference, relative to the largest output, at which the file counts as the same network."""


def onnx_bytes(module: nn.Module, input_shape: Sequence[int], *, opset: int = 18) -> bytes:
    """The ONNX file of a network in evaluation mode, in one piece; any number of images at once.

    Parameters
    ----------
    module : without hooks (`fold_gains` first). input_shape : (C, H, W) of its images.
    opset : version of ONNX's operators.

    Raises
    ------
    ConfigError : onnx or onnxscript is missing, the network carries hooks or does not take the shape.
    """
    check_unhooked(module)
    for library in ("onnx", "onnxscript"):
        if find_spec(library) is None:
            raise ConfigError(f"writing ONNX needs the package {library}; it is not installed; pip install {library}")
    example = torch.zeros(2, *input_shape, device=next(module.parameters()).device)
    with evaluating(module), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        try:
            module(example)
        except Exception as error:  # what a foreign network raises on a wrong shape is its own affair
            raise ConfigError(
                f"the network does not take images of shape {tuple(input_shape)} ({type(error).__name__}: {error}); "
                "give input_shape=(channels, height, width)"
            ) from error
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=["images"],
                output_names=["outputs"],
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
                verbose=False,
            )
        return path.read_bytes()


def check_onnx(data: bytes, module: nn.Module, input_shape: Sequence[int], *, images: int = 3, seed: int = 0) -> float:
    """Run the file with onnxruntime on noise; the largest difference relative to the largest output.

    Raises
    ------
    ConfigError : onnxruntime is missing. StoreError : the difference is above `TOLERANCE`.
    """
    if find_spec("onnxruntime") is None:
        raise ConfigError("checking ONNX needs the package onnxruntime; it is not installed; pip install onnxruntime")
    import onnxruntime

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, *input_shape, generator=generator)
    with evaluating(module), torch.no_grad():
        wanted = module(noise.to(next(module.parameters()).device)).cpu().numpy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: noise.numpy()})[0]
    difference = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), np.finfo(np.float32).tiny))
    if not difference <= TOLERANCE:
        raise StoreError(
            f"the ONNX file answers otherwise than the network (relative difference {difference:.2g}, wanted at most "
            f"{TOLERANCE:g}); it was not written; try another opset"
        )
    return difference
