"""Gains as files of other tools: safetensors with labels in the header, and the folder of a peft adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from featattn_neuro.errors import ConfigError, DataError, StoreError
from featattn_neuro.io.store import _replacing, provenance, write_bytes_atomic
from featattn_neuro.schema import GAINS, SCHEMA_VERSION

_TENSORS, _CONFIG, _CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"


def write_gains(gains: xr.Dataset, path: str | Path) -> Path:
    """Write GAINS as one `.safetensors` file: numbers as tensors, everything else as text in its header.

    The header's `dims` says each tensor's dimensions, `text` holds unit ids, tasks and the other text, `attrs` the
    attributes and `provenance` the versions, so that any safetensors reader can use the file without this package.

    Raises
    ------
    StoreError : another suffix, a missing or unwritable folder. SchemaError : not of kind GAINS.
    """
    from safetensors.numpy import save

    path = _suffixed(path)
    checked = GAINS.check(gains)
    tensors, dims, text = {}, {}, {}
    for name, variable in checked.variables.items():
        values = variable.values
        dims[str(name)] = [str(dim) for dim in variable.dims]
        if values.dtype.kind in "fiub":
            tensors[str(name)] = np.array(values, order="C")
        else:
            text[str(name)] = values.astype(str).tolist()
    header = {
        "kind": "GAINS",
        "schema_version": str(SCHEMA_VERSION),
        "dims": json.dumps(dims, sort_keys=True),
        "text": json.dumps(text, sort_keys=True),
        "coordinates": json.dumps(sorted(map(str, checked.coords))),
        "attrs": json.dumps(dict(checked.attrs), sort_keys=True),
        "provenance": provenance(),
    }
    return write_bytes_atomic(path, save(tensors, metadata=header))


def read_gains(path: str | Path) -> xr.Dataset:
    """GAINS that `write_gains` wrote, exactly; attribute `provenance` is that of the file.

    Raises
    ------
    StoreError : no such file, no safetensors file, or one that holds something else than GAINS.
    """
    tensors, header = _read(_suffixed(path))
    if header.get("kind") != "GAINS":
        raise StoreError(
            f"{Path(path).name} holds no gains of this package (kind {header.get('kind')!r} in its header); "
            "wanted a file that export_gains wrote"
        )
    dims, text, attrs = (json.loads(header[key]) for key in ("dims", "text", "attrs"))
    names = set(json.loads(header["coordinates"]))
    values: dict[str, Any] = {**tensors, **{name: np.asarray(value, dtype=str) for name, value in text.items()}}
    if set(values) != set(dims):
        raise StoreError(
            f"{Path(path).name} is incomplete: its header names other tensors than it holds; write it again"
        )
    variables = {name: (tuple(dims[name]), value) for name, value in values.items()}
    return GAINS.check(
        xr.Dataset(
            {name: value for name, value in variables.items() if name not in names},
            {name: value for name, value in variables.items() if name in names},
            {**attrs, "provenance": header["provenance"]},
        )
    )


def write_peft(folder: str | Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Path:
    """Write the folder that peft's `PeftModel.from_pretrained` reads; an existing one is replaced in the end.

    Raises
    ------
    ConfigError : a path that ends in no name. StoreError : a file of that name, a folder that holds anything but an
        adapter, or an unwritable place.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    if folder.name in ("", ".."):
        raise ConfigError(f"wanted the name of a folder for the adapter alone; came {str(folder)!r}; name a new one")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"wanted a folder for the peft adapter; {str(folder)!r} is a file; give another name")
    with _replacing(folder, _is_adapter) as temporary:
        temporary.mkdir()
        if (folder / _CARD).is_file():  # somebody's words about the adapter
            shutil.copyfile(folder / _CARD, temporary / _CARD)
        (temporary / _TENSORS).write_bytes(save({k: np.array(v, order="C") for k, v in tensors.items()}))
        (temporary / _CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True), encoding="utf-8")
    return folder


def read_peft(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and configuration of a peft adapter's folder (safetensors; pickled adapters are not read).

    Raises
    ------
    StoreError : one of the two files is missing or cannot be read.
    """
    folder = Path(folder)
    for name in (_TENSORS, _CONFIG):
        if not (folder / name).is_file():
            raise StoreError(f"wanted a peft adapter; there is no {name} in {str(folder)!r}; save it with safetensors")
    tensors, _ = _read(folder / _TENSORS)
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{_CONFIG} of {str(folder)!r} cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict):
        raise DataError(f"{_CONFIG} of {str(folder)!r} holds no configuration; save the adapter again")
    return tensors, config


def _is_adapter(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} <= {_TENSORS, _CONFIG, _CARD}


def _suffixed(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise StoreError(f"wanted a file name that ends in .safetensors; came {str(path)!r}; rename it")
    return path


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise StoreError(f"wanted a safetensors file; there is none at {str(path)!r}; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"{path.name} is no valid safetensors file ({error}); write or fetch it again") from error
