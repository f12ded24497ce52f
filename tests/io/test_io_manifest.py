"""Manifest: validated with the entry and field named; found where it says; fetched with resume and checksum."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import yaml

from featattn_neuro.errors import ConfigError, StoreError
from featattn_neuro.io import download as download_module
from featattn_neuro.io import manifest

CONTENT = os.urandom(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; can break off after some bytes, ignore ranges, or refuse."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.break_after: int | None = None
        self.ignore_range = False
        self.status: int | None = None
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/data.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        start = 0
        if wanted and not self.server.ignore_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) if self.server.break_after is None else self.server.break_after
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def entry(**changes: object) -> dict:
    file = {"path": "sub/data.bin", "size": len(CONTENT), "sha256": SHA}
    base = {
        "name": "set",
        "kind": "images",
        "source": "local",
        "files": [file],
        "licence": "none",
        "citation": "nobody",
        "loader": "image_zip",
    }
    return {**base, **changes}


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Install a manifest of the given entries, an empty cache, and no data folder."""
    monkeypatch.setenv("FEATATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEATATTN_DATA", raising=False)

    def install(*entries: dict) -> Path:
        path = tmp_path / "manifest.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "entries": list(entries)}))
        monkeypatch.setattr(manifest, "_manifest_path", lambda: path)
        return path

    return install


def remote(server: Server, **changes: object) -> dict:
    file = {"path": "sub/data.bin", "size": len(CONTENT), "sha256": SHA, "url": server.url}
    return entry(source="url", files=[{**file, **changes}])


# the manifest itself


PROMISED = {
    "images": {"digits", "cifar10", "cifar10_jpeg_subset", "imagenet_sample"},
    "weights": {"efficientnet_lite0", "cifar_resnet20", "cifar_resnet32", "cifar_resnet56"},
    "neural": {"disparity_v1v2", "disparity_mt", "zhang_desimone_it", "v4_210325"},
    "dissimilarity": {"objects92"},
}


def test_the_packages_manifest_names_what_the_package_promises():
    for kind, names in PROMISED.items():
        assert names <= set(manifest.load_manifest().names(kind))
    cifar = manifest.load_manifest().entry("cifar10").files[0]
    assert (cifar.md5, cifar.sha256) == ("c58f30108f718f92721af3b95e74349a", None)
    urls = [e.url(f) for e in manifest.load_manifest().entries for f in e.files if e.source == "url"]
    assert len(urls) == len(set(urls))


@pytest.mark.parametrize("name", ["digits", "efficientnet_lite0"])
def test_sets_inside_packages_are_found_and_verified(name):
    assert manifest.is_present(name)
    path = manifest.find(name)
    assert path.is_file()
    assert manifest.fetch(name) == path


def test_checksums_agree_with_the_development_data(shared_data):
    listed = {}
    for line in (shared_data / "SHA256SUMS").read_text().splitlines():
        checksum, path = line.split()
        listed[path.removeprefix("./")] = checksum
    checked = 0
    for one in manifest.load_manifest().entries:
        for file in one.files if one.package is None else ():
            if file.path in listed:
                assert file.sha256 == listed[file.path]
                checked += 1
    assert checked >= 15
    for name in ("cifar10_jpeg_subset", "cifar_resnet20", "disparity_v1v2", "disparity_mt", "objects92", "v4_210325"):
        assert manifest.is_present(name)
        assert manifest.find(name).exists()
    assert manifest.find("disparity_mt").name == "MT"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "pictures"}, r"entry 'set', field kind: .*came 'pictures'"),
        ({"licence": None}, "entry 'set', field licence: .*came None"),
        ({"licens": "MIT"}, "entry 'set', field licens: Extra inputs"),
        ({"files": []}, "entry 'set', field files: .*at least 1 item"),
        ({"source": "url"}, r"entry 'set', field as a whole: source url needs a url .*sub/data\.bin has none"),
        ({"source": "python_package"}, "field package belongs to source python_package"),
        ({"files": [{"path": "a", "size": 1}]}, r"entry 'set', field files\.0: needs a checksum"),
        ({"files": [{"path": "a", "size": 0, "sha256": SHA}]}, r"entry 'set', field files\.0\.size: .*came 0"),
        ({"files": [{"path": "../a", "size": 1, "sha256": SHA}]}, r"field files\.0\.path: must be a relative path"),
        ({"files": [{"path": "a", "size": 1, "sha256": "abc"}]}, "sha256 must be 64 hexadecimal digits"),
        ({"files": [{"path": "a", "size": 1, "sha256": SHA, "url": "ftp://x"}]}, r"files\.0\.url: must start with"),
    ],
)
def test_a_mistake_names_the_entry_and_the_field(use, changes, text):
    path = use(entry(**changes))
    with pytest.raises(ConfigError, match=text):
        manifest.load_manifest(path)


def test_other_mistakes(use, tmp_path):
    with pytest.raises(ConfigError, match="entry set comes more than once"):
        manifest.load_manifest(use(entry(), entry()))
    with pytest.raises(StoreError, match="wanted a data manifest"):
        manifest.load_manifest(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not readable YAML"):
        manifest.load_manifest(tmp_path / "bad.yaml")
    use(entry())
    with pytest.raises(ConfigError, match=r"unknown data set 'sett'; choose one of: set \(did you mean 'set'"):
        manifest.find("sett")


# finding


def test_the_data_folder_is_looked_in_first(use, tmp_path, monkeypatch):
    use(entry())
    assert not manifest.is_present("set")
    with pytest.raises(
        StoreError, match=rf"not on this machine; it has no public address: put it at .*data\.bin.*{SHA}"
    ):
        manifest.find("set")
    for folder in ("cache", "mine"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "data.bin").write_bytes(CONTENT)
    assert manifest.find("set") == tmp_path / "cache" / "sub" / "data.bin"
    monkeypatch.setenv("FEATATTN_DATA", str(tmp_path / "mine"))
    assert manifest.find("set") == tmp_path / "mine" / "sub" / "data.bin"
    assert manifest.find("set", data_dir=tmp_path / "cache") == tmp_path / "cache" / "sub" / "data.bin"
    assert manifest.fetch("set") == tmp_path / "mine" / "sub" / "data.bin"


def test_a_wrong_checksum_is_an_error_that_gives_both(use, tmp_path, monkeypatch):
    use(entry())
    monkeypatch.setenv("FEATATTN_DATA", str(tmp_path))
    (tmp_path / "sub").mkdir()
    wrong = b"x" + CONTENT[1:]
    (tmp_path / "sub" / "data.bin").write_bytes(wrong)
    came = hashlib.sha256(wrong).hexdigest()
    for verb in (manifest.find, manifest.fetch):
        with pytest.raises(StoreError, match=rf"wanted sha256 {SHA} .*came {came}"):
            verb("set")
    (tmp_path / "sub" / "data.bin").write_bytes(CONTENT)
    assert manifest.find("set").read_bytes() == CONTENT


def test_several_files_are_a_folder_and_must_all_be_there(use, tmp_path, monkeypatch):
    files = [{"path": f"sub/{n}", "size": 1, "sha256": hashlib.sha256(n.encode()).hexdigest()} for n in "ab"]
    use(entry(files=files))
    monkeypatch.setenv("FEATATTN_DATA", str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("a")
    assert not manifest.is_present("set")
    with pytest.raises(StoreError, match=r"'set' is incomplete: there is no .*sub/b"):
        manifest.find("set")
    (tmp_path / "sub" / "b").write_text("b")
    assert manifest.is_present("set")
    assert manifest.find("set") == tmp_path / "sub"


def test_a_missing_package_says_what_to_install(use):
    use(entry(source="python_package", package={"distribution": "no-such-dist", "module": "no_such_module_x"}))
    with pytest.raises(StoreError, match="pip install no-such-dist"):
        manifest.fetch("set")


# fetching


def cached(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "sub").iterdir())


def test_fetch_once(use, server, tmp_path, capfd):
    use(remote(server))
    path = manifest.fetch("set", progress=False)
    assert path == tmp_path / "cache" / "sub" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert manifest.fetch("set") == path
    assert server.asked == [None]
    assert cached(tmp_path) == ["data.bin"]
    assert capfd.readouterr() == ("", "")


def test_fetch_shows_a_bar_on_standard_error(use, server, capfd):
    use(remote(server))
    manifest.fetch("set", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "set (1/1)" in err


def test_an_interrupted_download_goes_on(use, server, tmp_path):
    use(remote(server))
    server.break_after = 1_234_567
    with pytest.raises(StoreError, match=r"connection broke \(what came is kept"):
        manifest.fetch("set", progress=False)
    kept = (tmp_path / "cache" / "sub" / "data.bin.part").stat().st_size
    assert 0 < kept <= 1_234_567
    assert not manifest.is_present("set")
    server.break_after = None
    assert manifest.fetch("set", progress=False).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={kept}-"]
    assert cached(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("stale", [b"other bytes", CONTENT + b"too long", b"y" * len(CONTENT)])
def test_a_part_of_another_file_is_replaced(use, server, tmp_path, stale):
    use(remote(server))
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    (tmp_path / "cache" / "sub" / "data.bin.part").write_bytes(stale)
    assert manifest.fetch("set", progress=False).read_bytes() == CONTENT
    assert server.asked[-1] is None
    assert cached(tmp_path) == ["data.bin"]


def test_a_server_without_ranges(use, server, tmp_path):
    use(remote(server))
    server.ignore_range = True
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    (tmp_path / "cache" / "sub" / "data.bin.part").write_bytes(CONTENT[:1000])
    assert manifest.fetch("set", progress=False).read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(use, server, tmp_path):
    use(remote(server, sha256="0" * 64))
    with pytest.raises(StoreError, match=rf"wanted sha256 {'0' * 64} from http.*came {SHA} \(3000000 bytes\)"):
        manifest.fetch("set", progress=False)
    assert cached(tmp_path) == []
    assert len(server.asked) == 1


def test_md5_where_only_that_is_public(use, server):
    file = {"path": "a.bin", "size": len(CONTENT), "md5": hashlib.md5(CONTENT).hexdigest(), "url": server.url}
    use(entry(source="url", files=[file]))
    assert manifest.fetch("set", progress=False).read_bytes() == CONTENT


def test_a_refusal_and_no_network_are_clear_and_fast(use, server, tmp_path):
    use(remote(server))
    server.status = 404
    with pytest.raises(StoreError, match=r"answered 404 Not Found; download http"):
        manifest.fetch("set", progress=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/data.bin"
        use(remote(server, url=url))
        started = time.monotonic()
        with pytest.raises(StoreError) as caught:
            manifest.fetch("set", progress=False)
    assert time.monotonic() - started < 3
    for part in (url, "cannot be reached", SHA, str(tmp_path / "cache" / "sub" / "data.bin")):
        assert part in str(caught.value)


def test_too_little_space_is_said_before_the_download(use, server, monkeypatch):
    use(remote(server))
    usage = download_module.shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"wanted 6 MB of free space .* has 1 MB"):
        manifest.fetch("set", progress=False)
    assert server.asked == []


def test_two_processes_do_not_write_the_same_part(use, server, tmp_path):
    import fcntl

    use(remote(server))
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    with open(tmp_path / "cache" / "sub" / "data.bin.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"another process is downloading 'data\.bin'"):
            manifest.fetch("set", progress=False)


def test_an_unwritable_cache(use, server, tmp_path):
    use(remote(server))
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"cannot be written .*FEATATTN_CACHE"):
        manifest.fetch("set", progress=False)
