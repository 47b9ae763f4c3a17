"""Data sets to and from stores: an S3 server behind a proxy that cuts, killed processes, folders, damage, conflicts."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aloha_kit.data.__main__ import main as data
from aloha_kit.data.pull import pull
from aloha_kit.data.push import local_files, push
from aloha_kit.data.store_records import FileRecord, read_records, write_record
from aloha_kit.data.transfer import TransferOptions
from aloha_kit.stores import open_store, resume, StoreError
from aloha_kit.stores.file_system import FileSystemStore
from tests.commands import failure
from tests.stores_server import CuttingProxy, free_port, s3_server, sftp_server
from tests.waiting import until

QUICK = TransferOptions(wait_s=0)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("obstore")
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        yield port


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[CuttingProxy]]:
    """Proxies that are closed at the end; credentials are set."""
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    proxies: list[CuttingProxy] = []
    yield proxies
    for proxy in proxies:
        proxy.close()


def endpoint(port: int) -> None:
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"  # `through` restores it


def made(folder: Path, files: int = 30, size: int = 100_000) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    content = {f"episode_{i}.hdf5": rng.bytes(int(rng.integers(1, 2 * size))) for i in range(files)}
    content |= {"curation.yaml": b"version: 1\n", "data/.zarray": b"{}", "empty": b""}
    for name, bytes_ in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes_)
    return content


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_hundred_cut_connections_each_way(s3: int, through: list[CuttingProxy], tmp_path: Path) -> None:
    content = made(tmp_path / "rig", files=60)
    through += [CuttingProxy(s3, cuts=100, seed=0), CuttingProxy(s3, cuts=100, seed=1)]
    endpoint(through[0].port)
    sent = push(tmp_path / "rig", open_store("s3://robots/cut"), QUICK)
    assert (sent.transferred, sent.failed) == (len(content), ())
    endpoint(through[1].port)
    fetched = pull(open_store("s3://robots/cut"), tmp_path / "trainer", QUICK)
    assert (fetched.transferred, fetched.failed) == (len(content), ())
    assert files_of(tmp_path / "trainer") == content
    assert [proxy.cut for proxy in through] == [100, 100]


@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_killed_transfer_goes_on(command: str, s3: int, through: list[CuttingProxy], tmp_path: Path) -> None:
    url = f"s3://robots/{command}"
    content = made(tmp_path / "rig", files=40, size=400_000)
    endpoint(s3)
    if command == "pull":
        push(tmp_path / "rig", open_store(url), QUICK)
    words = {"push": [str(tmp_path / "rig"), url], "pull": [url, str(tmp_path / "trainer")]}[command]
    process = subprocess.Popen([sys.executable, "-m", "aloha_kit.data", command, *words, "--jobs", "1"])
    store = open_store(url)
    some = {
        "push": lambda: sum(1 for _ in store.files()) > 3,
        "pull": lambda: len([*(tmp_path / "trainer").glob("episode_*")]) > 3,
    }
    until(some[command], "some files are there")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = sum(1 for _ in store.files()) if command == "push" else len([*(tmp_path / "trainer").glob("[!.]*")])
    assert done < len(content)
    again = subprocess.run(
        [sys.executable, "-m", "aloha_kit.data", command, *words], capture_output=True, text=True, check=True
    )
    assert f"{'sent' if command == 'push' else 'fetched'} (" in again.stdout
    if command == "push":
        pull(store, tmp_path / "trainer", QUICK)
    assert files_of(tmp_path / "trainer") == content
    assert {path: record.sha256 for path, record in read_records(store).items()} == {
        path: hashlib.sha256(data).hexdigest() for path, data in content.items()
    }


def test_large_files_go_in_parts(s3: int, through: list[CuttingProxy], tmp_path: Path) -> None:
    endpoint(s3)
    (tmp_path / "rig").mkdir()
    large = np.random.default_rng(0).bytes(20 << 20)
    (tmp_path / "rig/episode_0.hdf5").write_bytes(large)
    push(tmp_path / "rig", open_store("s3://robots/large"), TransferOptions(check=True))
    (tag,) = [e["e_tag"] for page in obstore_list("s3://robots/large") for e in page if e["path"].endswith("hdf5")]
    assert tag.endswith('-3"'), "of a multipart upload of three parts"
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/.episode_0.hdf5.part").write_bytes(large[: 9 << 20])
    fetched = pull(open_store("s3://robots/large"), tmp_path / "trainer", QUICK)
    assert (fetched.transferred, files_of(tmp_path / "trainer")) == (1, {"episode_0.hdf5": large})


def obstore_list(url: str) -> Any:
    import obstore
    from obstore.store import from_url

    return obstore.list(from_url(url, client_options={"allow_http": True}))


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Root of all URLs of an SFTP server that the user knows."""
    pytest.importorskip("sshfs")
    home = tmp_path_factory.mktemp("home")
    with sftp_server(home) as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield f"ssh://robot@127.0.0.1:{port}"


STORES = ["s3", "file", "ssh"]


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        pytest.importorskip("fsspec")
        return f"file://{tmp_path}/share"
    if request.param == "ssh":
        return f"{request.getfixturevalue('ssh')}{tmp_path}/share"
    request.getfixturevalue("through")
    endpoint(request.getfixturevalue("s3"))
    return f"s3://robots/{tmp_path.name}"


def test_nothing_in_a_store_is_replaced(url: str, tmp_path: Path) -> None:
    content = made(tmp_path / "rig", files=3, size=1000)
    store = open_store(url)
    assert push(tmp_path / "rig", store, QUICK).transferred == len(content)
    again = push(tmp_path / "rig", store, QUICK)
    assert (again.transferred, again.there, again.bytes) == (0, len(content), 0)
    os.utime(tmp_path / "rig/episode_1.hdf5")
    touched = push(tmp_path / "rig", store, QUICK)
    assert (touched.transferred, touched.there, touched.failed) == (0, len(content), ()), "only its time is another"
    (tmp_path / "rig/episode_0.hdf5").write_bytes(b"another")
    (tmp_path / "rig/episode_9.hdf5").write_bytes(b"new")
    ((path, why),) = push(tmp_path / "rig", store, QUICK).failed
    assert (path, why) == (
        "episode_0.hdf5",
        f"{url} has 'episode_0.hdf5' with another content, which is not replaced; send it under another name",
    )
    pull(store, tmp_path / "trainer", QUICK)
    assert files_of(tmp_path / "trainer") == content | {"episode_9.hdf5": b"new"}
    (tmp_path / "unrecorded").mkdir()
    (tmp_path / "unrecorded/x").write_bytes(b"mine")
    store.upload(tmp_path / "unrecorded/x", "x", "00000000")
    with pytest.raises(FileExistsError, match="'x' exists"):
        store.upload(tmp_path / "rig/episode_9.hdf5", "x", "11111111")
    (tmp_path / "rig/x").write_bytes(b"other")
    assert sorted(path for path, _ in push(tmp_path / "rig", store, QUICK).failed) == ["episode_0.hdf5", "x"]
    (tmp_path / "rig/x").write_bytes(b"mine")
    assert [path for path, _ in push(tmp_path / "rig", store, QUICK).failed] == ["episode_0.hdf5"]
    assert read_records(store)["x"].sha256 == hashlib.sha256(b"mine").hexdigest()


def test_what_is_here_is_not_replaced_and_damage_is_found(url: str, tmp_path: Path) -> None:
    made(tmp_path / "rig", files=3, size=1000)
    store = open_store(url)
    push(tmp_path / "rig", store, QUICK)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/episode_1.hdf5").write_bytes(b"mine")
    ((path, why),) = pull(store, tmp_path / "trainer", QUICK).failed
    assert (path, "is there with another content" in why) == ("episode_1.hdf5", True)
    assert (tmp_path / "trainer/episode_1.hdf5").read_bytes() == b"mine"
    same = (tmp_path / "trainer/episode_2.hdf5").stat()
    damaged = bytearray((tmp_path / "trainer/episode_2.hdf5").read_bytes())
    damaged[0] ^= 1
    (tmp_path / "trainer/episode_2.hdf5").write_bytes(damaged)
    os.utime(tmp_path / "trainer/episode_2.hdf5", ns=(same.st_mtime_ns, same.st_mtime_ns))
    found = pull(store, tmp_path / "trainer", TransferOptions(check=True, wait_s=0)).failed
    assert sorted(path for path, _ in found) == ["episode_1.hdf5", "episode_2.hdf5"]


def test_files_are_read_in_parts(url: str, tmp_path: Path) -> None:
    large = np.random.default_rng(0).bytes((9 << 20) + 1)
    (tmp_path / "rig").mkdir()
    (tmp_path / "rig/episode_0.hdf5").write_bytes(large)
    store = open_store(url)
    assert push(tmp_path / "rig", store, TransferOptions(check=True)).failed == ()
    for start, stop in ((0, 10), (5, 5), (1 << 20, 2 << 20), (len(large) - 3, len(large))):
        assert store.read("episode_0.hdf5", start, stop) == large[start:stop]
    with pytest.raises(FileNotFoundError):
        store.read("none", 0, 1)
    assert (store.size("none"), list(store.files("none"))) == (None, [])
    assert pull(store, tmp_path / "trainer", QUICK).failed == ()
    assert files_of(tmp_path / "trainer") == {"episode_0.hdf5": large}


def test_files_that_lost_their_end_are_found(url: str, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    content = made(tmp_path / "rig", files=1, size=1000)
    store, short = open_store(url), tmp_path / "short"
    short.write_bytes(content["episode_0.hdf5"][:-1])
    store.upload(short, "episode_0.hdf5", "00000000")
    write_record(store, [FileRecord.of("episode_0.hdf5", tmp_path / "rig/episode_0.hdf5")])
    ((path, why),) = pull(store, tmp_path / "trainer", QUICK).failed
    size = len(content["episode_0.hdf5"])
    assert path == "episode_0.hdf5"
    assert f"{size - 1} bytes of 'episode_0.hdf5' came in place of {size}" in why


def test_an_unknown_host_is_refused(ssh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    message = failure(data, ["ls", f"{ssh.replace('robot', 'other')}{tmp_path}/share"])
    assert "Host key is not trusted" in message


def test_records_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    content = made(tmp_path / "rig", files=2, size=1000)
    store = open_store(f"file://{tmp_path}/share")
    push(tmp_path / "rig", store, QUICK)
    monkeypatch.setattr(resume.time, "sleep", lambda seconds: None)
    read, fails = store._read, iter([True, True])

    def cut(path: str, start: int, stop: int) -> bytes:
        if next(fails, False):
            raise ConnectionError("cut")
        return read(path, start, stop)

    monkeypatch.setattr(store, "_read", cut)
    assert {path: record.bytes for path, record in read_records(store).items()} == {
        path: len(data) for path, data in content.items()
    }
    fails = iter([True] * 8)
    with pytest.raises(StoreError, match=r"^cut \(8 attempts\)$"):
        pull(store, tmp_path / "trainer", QUICK)


def test_the_index_of_shards_is_sent_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all others have arrived, and not where one of them was refused."""
    names = [f"shard-{i:06d}.tar" for i in range(5)] + ["shards.json"]
    for folder in ("rig", "refused"):
        (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / "rig" / name).write_bytes(name.encode())
    events: list[tuple[str, str]] = []
    upload = FileSystemStore.upload

    def slowly(self: FileSystemStore, file: Path, path: str, *more: Any) -> None:
        events.append(("begins", path))
        time.sleep(0.02)
        upload(self, file, path, *more)
        events.append(("ends", path))

    monkeypatch.setattr(FileSystemStore, "upload", slowly)
    sent = push(tmp_path / "rig", open_store((tmp_path / "store").as_uri()), QUICK)
    assert (sent.transferred, sent.failed) == (6, ())
    data = [event for event in events if not event[1].startswith(".aloha_kit")]
    assert data[-2:] == [("begins", "shards.json"), ("ends", "shards.json")]
    (tmp_path / "refused" / names[0]).write_bytes(b"another")
    sent = push(tmp_path / "rig", open_store((tmp_path / "refused").as_uri()), QUICK)
    assert (sent.transferred, [path for path, _ in sent.failed]) == (4, [names[0], "shards.json"])
    assert sent.failed[1][1] == "is sent after the files that it lists"
    assert not (tmp_path / "refused" / "shards.json").exists()


def test_what_is_no_data_is_not_sent(tmp_path: Path) -> None:
    content = made(tmp_path / "rig", files=1, size=1000)
    for name in (".claims", ".episode_0.hdf5.part", ".manifest.parquet.rows", "manifest.parquet", "episode_1.hdf5.tmp"):
        (tmp_path / "rig" / name).write_bytes(b"ours")
    assert sorted(local_files(tmp_path / "rig")) == sorted(content)


def test_a_damaged_store_is_found(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    content = made(tmp_path / "rig", files=2, size=1000)
    store = open_store(f"file://{tmp_path}/share")
    push(tmp_path / "rig", store, QUICK)
    (tmp_path / "share/episode_0.hdf5").write_bytes(content["episode_0.hdf5"][:-1] + b"?")
    ((path, why),) = pull(store, tmp_path / "trainer", QUICK).failed
    assert (path, why) == (
        "episode_0.hdf5",
        f"file://{tmp_path}/share: 'episode_0.hdf5' is not what was sent: its SHA-256 differs",
    )
    assert not (tmp_path / "trainer/episode_0.hdf5").exists()
    (record,) = (tmp_path / "share/.aloha_kit").glob("files-*")
    for path, expected in (("../x", "outside of its folder"), ("/x", "outside of its folder"), (1, "is damaged")):
        record.write_text(json.dumps({"path": path, "bytes": 1, "mtime_ns": 1, "sha256": ""}))
        with pytest.raises(StoreError, match=expected):
            pull(store, tmp_path / "other", QUICK)


def test_a_shared_folder_shows_whole_files_only(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    content = made(tmp_path / "rig", files=1)["episode_0.hdf5"]
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "share").mkdir()
    part = tmp_path / f"share/.episode_0.hdf5.{digest[:8]}.part"
    part.write_bytes(content[:5])
    store = open_store(f"file://{tmp_path}/share")
    assert [file.path for file in store.files()] == []
    sent: list[int] = []
    store.upload(tmp_path / "rig/episode_0.hdf5", "episode_0.hdf5", digest, sent.append)
    assert sent == [5, len(content) - 5], "it goes on with the part"
    assert (tmp_path / "share/episode_0.hdf5").read_bytes() == content
    assert not part.exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fsspec")
    content, url = made(tmp_path / "rig", files=2, size=1000), f"file://{tmp_path}/share"
    data(["push", str(tmp_path / "rig"), url])
    size = sum(map(len, content.values()))
    assert f"{url}: 5 files sent ({size / 1e6:.1f} MB), 0 were there" in capsys.readouterr().out
    data(["ls", url, "--json"])
    assert {entry["path"]: entry["bytes"] for entry in json.loads(capsys.readouterr().out)} == {
        path: len(data) for path, data in content.items()
    }
    data(["ls", url])
    assert f"{url}: 5 files" in capsys.readouterr().out
    data(["pull", url, str(tmp_path / "trainer")])
    assert files_of(tmp_path / "trainer") == content
    (tmp_path / "rig/empty").write_bytes(b"no longer")
    assert failure(data, ["push", str(tmp_path / "rig"), url]) == "1"
    assert "not sent, such as empty: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["push", "{tmp}/none", "file://{tmp}/share"], "no folder '{tmp}/none'; expected the folder of a data set"),
        (["push", "{tmp}", "file://{tmp}/share"], "no file of a data set in '{tmp}'"),
        (
            ["pull", "nowhere", "{tmp}"],
            "a store is a URL such as s3://bucket/folder or sftp://host/folder, given 'nowhere'",
        ),
        (["pull", "nothing://x/y", "{tmp}"], "no driver for nothing://x/y: Protocol not known: nothing"),
        (
            ["pull", "file://{tmp}/none", "{tmp}/to"],
            "file://{tmp}/none holds no data set that `data push` sent; it is empty",
        ),
    ],
)
def test_mistakes(words: list[str], expected: str, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    assert expected.format(tmp=tmp_path) in failure(data, [word.format(tmp=tmp_path) for word in words])


def test_a_missing_driver_and_a_store_that_cannot_be_reached(
    through: list[CuttingProxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setitem(sys.modules, "ossfs", None)
    assert failure(data, ["ls", "oss://bucket/x"]).startswith("error: no driver for oss://bucket/x: Install ossfs")
    endpoint(free_port())
    message = failure(data, ["ls", "s3://robots/x"])
    assert message.startswith("error: cannot list s3://robots/x: ")
    assert "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION" in message
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    message = failure(data, ["ls", "az://bucket/x"])
    assert message == (
        "error: cannot open az://bucket/x: Generic MicrosoftAzure error: Account must be specified; credentials come "
        "from the environment: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
    )
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert failure(data, ["ls", "s3://robots/x"]) == (
        "error: s3://robots/x needs obstore: pip install obstore, or 'aloha_kit[stores]'"
    )
