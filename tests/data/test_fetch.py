"""Published data sets from a local server: cut connections, servers without ranges, checksums, no network, archives."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.convert.__main__ import main as convert
from aloha_kit.core import ConfigError
from aloha_kit.data.__main__ import main as data
from aloha_kit.data.fetch import fetch, FetchError, RECORD
from aloha_kit.data.published import PUBLISHED, PublishedDataset, PublishedFile
from aloha_kit.formats import open_source
from tests.commands import failure
from tests.synthetic import write_dataset


class Server(ThreadingHTTPServer):
    """Files by path; each connection ends after `cut` bytes of its answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.requests: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content, given = self.server.files.get(self.path), self.headers.get("Range")
        self.server.requests.append(given)
        if content is None:
            self.send_error(404)
            return
        found = re.fullmatch(r"bytes=(\d+)-", given or "")
        start = int(found[1]) if found and self.server.ranges else 0
        if found and self.server.ranges and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if found and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def published(address: str, content: bytes, *, known: bool = True, unpack: bool = False) -> PublishedDataset:
    name = address.rpartition("/")[2]
    size, sha256 = (len(content), hashlib.sha256(content).hexdigest()) if known else (None, None)
    file = PublishedFile(address, name, size, sha256, unpack)
    return PublishedDataset("stand-in", (file,), "set.zarr" if unpack else name, "pusht", "MIT", "here")


def random(size: int) -> bytes:
    return np.random.default_rng(0).bytes(size)


def test_a_hundred_cut_connections(server: Server, tmp_path: Path) -> None:
    content = random(200_000)
    server.files["/set/x.hdf5"], server.cut = content, 2_000
    place = fetch(published("https://elsewhere/set/x.hdf5", content), tmp_path, server.address, wait_s=0)
    assert place.read_bytes() == content
    assert len(server.requests) == 100
    assert server.requests[99] == "bytes=198000-"
    assert sorted(file.name for file in tmp_path.iterdir()) == [RECORD, "x.hdf5"]
    fetch(published("https://elsewhere/set/x.hdf5", content), tmp_path, server.address)
    assert len(server.requests) == 100, "what is there is not downloaded again"


def test_what_another_process_left_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    content = random(5_000)
    server.files["/x"] = content
    for have in (3_000, 5_000):
        (tmp_path / "x").unlink(missing_ok=True)
        (tmp_path / ".x.part").write_bytes(content[:have])
        assert fetch(published(f"{server.address}/x", content), tmp_path).read_bytes() == content
        assert server.requests[-1] == f"bytes={have}-"


def test_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    content = random(5_000)
    server.files["/x"], server.ranges = content, False
    (tmp_path / ".x.part").write_bytes(content[:3_000])
    assert fetch(published(f"{server.address}/x", content), tmp_path).read_bytes() == content


def test_another_content_is_refused(server: Server, tmp_path: Path) -> None:
    content = random(5_000)
    server.files["/x"] = content[:-1] + b"?"
    with pytest.raises(FetchError, match=r"has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}: damaged or changed"):
        fetch(published(f"{server.address}/x", content), tmp_path)


def test_an_unpublished_checksum_is_recorded_at_the_first_download(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = random(5_000)
    server.files["/x"] = content
    unknown = published(f"{server.address}/x", content, known=False)
    fetch(unknown, tmp_path)
    assert "the SHA-256 of x is not published; that of this download is recorded" in caplog.text
    assert json.loads((tmp_path / RECORD).read_text())["x"]["sha256"] == hashlib.sha256(content).hexdigest()
    (tmp_path / "x").write_bytes(content[1:])
    with pytest.raises(FetchError, match="damaged or changed"):
        fetch(unknown, tmp_path)


def test_an_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    for entry in ("set.zarr/.zgroup", "../outside"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(entry, "{}")
        server.files[f"/{len(entry)}.zip"] = packed.getvalue()
    sound, hostile = (published(f"{server.address}{path}", server.files[path], unpack=True) for path in server.files)
    assert (fetch(sound, tmp_path / "a") / ".zgroup").read_text() == "{}"
    fetch(sound, tmp_path / "a")
    assert len(server.requests) == 1
    with pytest.raises(FetchError, match=r"would write outside of its folder: \.\./outside"):
        fetch(hostile, tmp_path / "b")
    assert not (tmp_path / "outside").exists()


def test_without_a_network_the_file_is_put_there_by_hand(tmp_path: Path) -> None:
    content = random(5_000)
    dataset = published("http://127.0.0.1:9/set/x.hdf5", content)
    with pytest.raises(FetchError, match=r"cannot download .*x.hdf5: .* or put the file at '.*x.hdf5' by hand"):
        fetch(dataset, tmp_path, wait_s=0)
    (tmp_path / "x.hdf5").write_bytes(content)
    assert fetch(dataset, tmp_path) == tmp_path / "x.hdf5"
    (tmp_path / "x.hdf5").write_bytes(content[:-1])
    with pytest.raises(FetchError, match="has 4999 bytes, published are 5000"):
        fetch(dataset, tmp_path)


def test_the_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "ours", (5, 4), {}, images="raw")
    convert([str(tmp_path / "ours"), str(tmp_path / "made"), "--format", "robomimic"])
    file = next((tmp_path / "made").glob("*.hdf5"))
    server.files["/v1.5/lift/ph/low.hdf5"] = file.read_bytes()
    stand_in = published("https://elsewhere/v1.5/lift/ph/low.hdf5", file.read_bytes())
    monkeypatch.setitem(PUBLISHED, "lift_ph", stand_in)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    data(["fetch", "lift_ph", "--mirror", server.address])
    assert capsys.readouterr().out.splitlines()[0] == "data/lift_ph/low.hdf5"
    assert len(open_source("data/lift_ph/low.hdf5")) == 2
    assert "no published data set 'lift'. Did you mean 'lift_ph'?" in failure(data, ["fetch", "lift"])
    assert "404 Not Found" in failure(data, ["fetch", "can_ph", "--mirror", server.address])
    assert "a mirror is an address" in failure(data, ["fetch", "can_ph", "--mirror", "here"])


def test_the_list_has_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    data(["ls"])
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in PUBLISHED)
    assert "format robomimic, 21.1 MB, licence MIT" in printed
    data(["ls", "--lang", "zh"])
    assert "格式 robomimic，21.1 MB，许可证 MIT" in capsys.readouterr().out
    data(["ls", "--json"])
    assert set(json.loads(capsys.readouterr().out)) == set(PUBLISHED)
    for dataset in PUBLISHED.values():
        for each in dataset.files:
            assert each.address.startswith("https://")
            assert each.sha256 is None or re.fullmatch("[0-9a-f]{64}", each.sha256)


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a file of that name is in the way"):
        fetch(PUBLISHED["lift_ph"], tmp_path / "file")
