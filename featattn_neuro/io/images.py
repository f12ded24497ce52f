"""Image files and archives: listed once, decoded when asked for, always as uint8 (H, W, 3) RGB.

Files may lie in a folder or in a zip archive; both are read lazily, so that a set may be larger than memory. The public
CIFAR-10 archive is a tar of Python pickles, which can run any code when they are read: a reader that knows nothing but
numpy arrays, dictionaries, lists, text and numbers reads them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
import os
import pickle
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featattn_neuro.errors import DataError, StoreError, UnreadableError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""File name endings, in lower case, that count as images."""

_BITS_PER_SAMPLE = 258
"""Number of the TIFF tag."""


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
            return _archive(self.root).read(member)
        except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            # zipfile raises a plain RuntimeError for a password that is missing, and its subclass for a way of packing
            # that it does not know
            packed = isinstance(error, RuntimeError)
            advice = "unpack the archive first, and load the folder" if packed else "check the file"
            raise UnreadableError(
                f"image {self.name(position)!r} cannot be read ({_reason(error)}); {advice}"
            ) from error

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        return decode(self.data(position), self.name(position))


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of one image file to uint8 (H, W, 3) RGB; transparency is dropped; the first frame counts.

    The pixels are those of the file: a rotation that its EXIF data ask for is not carried out.

    Raises `DataError` that names the image where it is corrupt, larger than Pillow decodes without a warning (89
    million pixels), or deeper than 8 bits a channel, grey or colour (converting those would clip them without a word).
    """
    with _opened(data, name) as image:
        return np.asarray(image.convert("RGB"))


def check_image(data: bytes, name: str) -> None:
    """Raise `DataError` that names the image if its bytes do not decode to the end (JPEGs at an eighth scale)."""
    with _opened(data, name) as image:
        # a reduced scale skips most of the arithmetic and still reads every byte
        image.draft(image.mode, (max(image.width // 8, 1), max(image.height // 8, 1)))
        image.load()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[ImageFile]:
    """The image, not yet decoded; what goes wrong with it inside the `with` becomes `DataError`."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_depth(image, name)
                yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(
            f"image {name!r} is too large ({_reason(error)}); scale it down, remove it, or pass corrupt='skip'"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableError(
            f"image {name!r} is corrupt ({_reason(error)}); replace it, remove it, or pass corrupt='skip'"
        ) from error


def list_folder(folder: Path) -> FileImages:
    """The image files in a folder and its sub-folders, sorted by relative path.

    Hidden files and folders are left out, and links to a folder that they lie in. Raises `DataError` for a folder
    without images, for a sub-folder in which there is neither an image nor a folder: an empty class; and for a name
    that is not UTF-8.
    """
    members: list[str] = []
    above = {os.fspath(folder): {_inode(folder)}}  # the folders that a folder lies in, and itself
    for place, folders, files in os.walk(folder, followlinks=True):
        within = above.pop(place)
        here = {f: _inode(os.path.join(place, f)) for f in sorted(folders) if not f.startswith(".")}
        folders[:] = [f for f in here if here[f] not in within]  # a link to a folder above would never end
        above |= {os.path.join(place, f): within | {here[f]} for f in folders}
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
    return FileImages(folder, _checked_names(sorted(members)))


def list_zip(archive: Path) -> FileImages:
    """The image files in a zip archive, sorted by name. Raises `DataError` if it is no zip or holds no image."""
    try:
        names = _archive(archive).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(archive)!r} is not a readable zip archive ({error}); replace it") from error
    members = [n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES and not Path(n).name.startswith(".")]
    if not members:
        raise DataError(f"wanted images in the zip archive {str(archive)!r}; there are none; choose another archive")
    return FileImages(archive, tuple(sorted(members)))


def list_files(paths: Sequence[str | Path]) -> FileImages:
    """Image files in the order given; relative to their common folder.

    Raises `DataError` for one that is missing, or whose name is not UTF-8.
    """
    absolute = [Path(p).absolute() for p in paths]
    for path in absolute:
        if not path.is_file():
            raise DataError(f"wanted an image file; there is none at {str(path)!r}; check the path")
    root = Path(os.path.commonpath([p.parent for p in absolute]))
    return FileImages(root, _checked_names([p.relative_to(root).as_posix() for p in absolute]))


def _checked_names(members: list[str]) -> tuple[str, ...]:
    """Python carries bytes of a name that are not UTF-8 along as surrogates, which no result file can hold."""
    odd = next((name for name in members if not name.isascii() and _has_surrogates(name)), None)
    if odd is not None:
        raise DataError(
            f"wanted image files with names in UTF-8; {os.fsencode(odd)!r} is not; rename it, for instance with convmv"
        )
    return tuple(members)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= one <= "\udfff" for one in text)


def _inode(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


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


def _archive(path: Path) -> zipfile.ZipFile:
    """An open zip: the one that lies there now, since a file may be replaced while the process goes on."""
    found = os.stat(path)
    return _open_archive(path, os.getpid(), (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _open_archive(path: Path, process: int, state: tuple[int, ...]) -> zipfile.ZipFile:
    """One per process, because forked processes would share the file's read position."""
    return zipfile.ZipFile(path)


def _check_depth(image: ImageFile, name: str) -> None:
    if image.mode.startswith(("I", "F")) or _deep_colours(image):
        raise UnreadableError(
            f"image {name!r} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
        )


def _deep_colours(image: ImageFile) -> bool:
    """Whether an image in colour is deeper than Pillow's mode says: it has none for deep colours, and cuts them."""
    if image.format == "TIFF":
        depths = image.tag_v2.get(_BITS_PER_SAMPLE, ())  # type: ignore[attr-defined]
        return any(isinstance(one, int) and one > 8 for one in (depths if isinstance(depths, tuple) else (depths,)))
    read_as = [tile[3] for tile in image.tile]
    if image.format == "PNG":
        return any(isinstance(one, str) and ";16" in one for one in read_as)
    if image.format == "PPM":  # the mode and the largest value
        return any(isinstance(one, tuple) and isinstance(one[-1], int) and one[-1] > 255 for one in read_as)
    return False


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
