"""Parquet files as tables, with errors that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featattn_neuro.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


def read_parquet(path: Path, name: str) -> pd.DataFrame:
    """All of a parquet file; `name` is how messages call it.

    Raises
    ------
    ConfigError : pyarrow is not installed. DataError : no readable parquet file.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ConfigError(
            "reading parquet files needs pyarrow, which is not installed: pip install 'featattn_neuro[tables]'"
        ) from error
    except Exception as error:  # the parquet engines have exceptions of their own
        raise DataError(f"{name} is not a readable parquet table ({error}); write it again") from error
