"""Image files and archives: listed once, decoded when asked for, always as uint8 (H, W, 3) RGB.

Files may lie in a folder or in a zip archive; both are read lazily, so that a set may be larger than memory. The public
CIFAR-10 archive is a tar of Python pickles, which can run any code when they are read: a reader that knows nothing but
numpy arrays, dictionaries, lists, text and numbers reads them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featattn_neuro.errors import DataError, StoreError, UnreadableError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""File name endings, in lower case, that count as images."""


@dataclass(frozen=True)
class FileImages:
    """Images in a folder or a zip archive, in a given order, decoded one at a time.

    Parameters
    ----------
    root : the folder, or the zip archive.
    members : file names relative to the folder, or names inside the archive.

    Raises
    ------
    DataError
        On reading: an image that cannot be decoded or has more than 8 bits a channel; it is named.
    """

    root: Path
    members: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def select(self, positions: NDArray[np.int64]) -> FileImages:
        """The images at `positions`, in that order."""
        return FileImages(self.root, tuple(self.members[i] for i in positions))

    def name(self, position: int) -> str:
        """Full name of one image, for messages."""
        return str(self.root / self.members[position])

    def data(self, position: int) -> bytes:
        """The file's bytes, undecoded."""
        member = self.members[position]
        try:
            if self.root.is_dir():
                return (self.root / member).read_bytes()
            return _archive(self.root, os.getpid()).read(member)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UnreadableError(f"image {self.name(position)!r} cannot be read ({error}); check the file") from error

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        return decode(self.data(position), self.name(position))


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of one image file to uint8 (H, W, 3) RGB; transparency is dropped; the first frame counts.

    Raises `DataError` that names the image where it is corrupt, or deeper than 8 bits a channel (converting those
    would clip them without a word).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_depth(image.mode, name)
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(
            f"image {name!r} is corrupt ({_reason(error)}); replace it, remove it, or pass corrupt='skip'"
        ) from error


def check_image(data: bytes, name: str) -> None:
    """Raise `DataError` that names the image if its bytes do not decode to the end (JPEGs at an eighth scale)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_depth(image.mode, name)
            # a reduced scale skips most of the arithmetic and still reads every byte
            image.draft(image.mode, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(
            f"image {name!r} is corrupt ({_reason(error)}); replace it, remove it, or pass corrupt='skip'"
        ) from error


def list_folder(folder: Path) -> FileImages:
    """The image files in a folder and its sub-folders, sorted by relative path.

    Hidden files and folders are left out. Raises `DataError` for a folder without images, and for a sub-folder in which
    there is neither an image nor a folder: an empty class.
    """
    members: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        images = [f for f in files if not f.startswith(".") and Path(f).suffix.lower() in IMAGE_SUFFIXES]
        if not images and not folders and Path(place) != folder:
            raise DataError(
                f"wanted at least one image in each class folder; {place!r} has none; fill it or remove it "
                f"(image files end in {', '.join(IMAGE_SUFFIXES)})"
            )
        members += [(Path(place) / f).relative_to(folder).as_posix() for f in images]
    if not members:
        raise DataError(
            f"wanted images in {str(folder)!r}; there are none; image files end in {', '.join(IMAGE_SUFFIXES)}"
        )
    return FileImages(folder, tuple(sorted(members)))


def list_zip(archive: Path) -> FileImages:
    """The image files in a zip archive, sorted by name. Raises `DataError` if it is no zip or holds no image."""
    try:
        names = _archive(archive, os.getpid()).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(archive)!r} is not a readable zip archive ({error}); replace it") from error
    members = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not Path(n).name.startswith(".")]
    if not members:
        raise DataError(f"wanted images in the zip archive {str(archive)!r}; there are none; choose another archive")
    return FileImages(archive, tuple(sorted(members)))


def list_files(paths: Sequence[str | Path]) -> FileImages:
    """Image files in the order given; relative to their common folder. Raises `DataError` for one that is missing."""
    absolute = [Path(p).absolute() for p in paths]
    for path in absolute:
        if not path.is_file():
            raise DataError(f"wanted an image file; there is none at {str(path)!r}; check the path")
    root = Path(os.path.commonpath([p.parent for p in absolute]))
    return FileImages(root, tuple(p.relative_to(root).as_posix() for p in absolute))


def file_ids(images: FileImages) -> list[str]:
    """sha256 of each file's bytes, 64 hexadecimal digits."""
    return [hashlib.sha256(images.data(i)).hexdigest() for i in range(len(images))]


def read_cifar10(archive: Path) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """Read the public CIFAR-10 archive (python version; Krizhevsky 2009).

    Returns
    -------
    images : uint8 (60000, 32, 32, 3), training batches first, then the test batch
    labels : class name of each image
    paths : "train/CLASS/file name" or "test/CLASS/file name" of each image

    Raises
    ------
    StoreError
        The archive is damaged, lacks a batch, or holds pickled objects other than arrays and plain containers.
    """
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    pixels, labels, paths = [], [], []
    try:
        with tarfile.open(archive, "r:*") as tar:
            folder = "cifar-10-batches-py"
            names = [n.decode() for n in _unpickle(tar, f"{folder}/batches.meta")[b"label_names"]]
            for batch in batches:
                content = _unpickle(tar, f"{folder}/{batch}")
                data = np.asarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
                pixels.append(data.transpose(0, 2, 3, 1))
                here = [names[i] for i in content[b"labels"]]
                part = "test" if batch == "test_batch" else "train"
                files = [name.decode() for name in content[b"filenames"]]
                paths += [f"{part}/{label}/{name}" for label, name in zip(here, files, strict=True)]
                labels += here
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        tarfile.TarError,
        pickle.PickleError,
    ) as error:
        raise StoreError(
            f"{str(archive)!r} is not the public CIFAR-10 archive, python version ({_reason(error)}); fetch it again"
        ) from error
    return np.ascontiguousarray(np.concatenate(pixels)), labels, paths


class _PlainUnpickler(pickle.Unpickler):
    """Reads containers, text, numbers and numpy arrays; refuses every other object before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        raise pickle.UnpicklingError(f"it holds an object {module}.{name}, which is not read")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """What numpy's own `_reconstruct` does; the pickle's next step fills in shape, dtype and bytes."""
    return np.ndarray.__new__(kind, shape, "b")


def _unpickle(tar: tarfile.TarFile, member: str) -> dict[bytes, Any]:
    handle = tar.extractfile(member)
    if handle is None:
        raise KeyError(f"{member} is no file")
    content = _PlainUnpickler(handle, encoding="bytes").load()
    if not isinstance(content, dict):
        raise TypeError(f"{member} holds {type(content).__name__}, not a dictionary")
    return content


@functools.lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open zip; one per process, because forked processes would share the file's read position."""
    return zipfile.ZipFile(path)


def _check_depth(mode: str, name: str) -> None:
    if mode.startswith(("I", "F")):
        raise UnreadableError(f"image {name!r} has more than 8 bits a channel (mode {mode}); convert it to 8 bits")


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
