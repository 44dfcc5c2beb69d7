"""Checkpoints in object stores: S3 and Azure refuse to replace one.

`make test-stores` installs the stores and runs this (tests/stores.py).
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from im_attr_audit import cli
from im_attr_audit.evidence.stores import ObjectWitness
from im_attr_audit.evidence.witnesses import (
    WitnessConflict,
    WitnessFailed,
    open_witness,
)

from launch.network import free_port
from launch.processes import wait_until
from tests.sealing import NAMES, Sealing
from tests.stores import FOLDER

AZURITE = FOLDER / "node" / "node_modules" / ".bin" / "azurite-blob"
#: Of this test's own account.
AZURE_KEY = base64.b64encode(b"a key of this test alone").decode()
FOLDERS = map("audit-{}".format, itertools.count())


class Store:
    """A running store; ``target``: a folder in its bucket."""

    def __init__(self, bucket: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.bucket, self._process, self.log = bucket, process, log
        self.target = ""
        #: gcp-storage-emulator takes ifGenerationMatch and replaces the object all the same.
        self.ignores_conditions = bucket.startswith("gs:")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def answers(url: str) -> Callable[[], bool]:
    def asked() -> bool:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    return asked


@contextlib.contextmanager
def running(bucket: str, url: str, log: Path, command: list[str]) -> Iterator[Store]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    store = Store(bucket, process, log)
    try:
        assert wait_until(answers(url), seconds=120)
        yield store
    finally:
        store.stop()


@contextlib.contextmanager
def s3(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.setenv("AWS_ACCESS_KEY_ID", "x")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running("s3://witness", f"{url}/moto-api/", folder / "log", command) as store:
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("witness")
        yield store


@contextlib.contextmanager
def gs(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    patch.setenv("STORAGE_EMULATOR_HOST", url)
    # Else gcsfs asks another API, which the emulator does not have, what kind of bucket it is.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    patch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": url})
    main = "from gcp_storage_emulator.__main__ import main; main()"
    command = [
        *(sys.executable, "-c", main, "start", "--host=127.0.0.1", f"--port={port}"),
        *("--in-memory", "--default-bucket=witness"),
    ]
    with running("gs://witness", url, folder / "log", command) as store:
        yield store


@contextlib.contextmanager
def az(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    if not AZURITE.exists():
        pytest.skip("Azurite needs npm")
    port = free_port()
    url = f"http://127.0.0.1:{port}/audit"
    patch.setenv("AZURITE_ACCOUNTS", f"audit:{AZURE_KEY}")
    patch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName=audit;AccountKey={AZURE_KEY};BlobEndpoint={url}",
    )
    command = [
        *(
            str(AZURITE),
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            str(port),
            "--inMemoryPersistence",
        ),
        *("--skipApiVersionCheck", "--disableTelemetry"),
    ]
    with running("az://witness", url, folder / "log", command) as store:
        fsspec.filesystem("az", skip_instance_cache=True).mkdir("witness")
        yield store


@pytest.fixture(scope="module", params=[s3, gs, az], ids=["s3", "gs", "az"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """One of each store for all tests; the last test stops it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch, request.param(folder, patch) as running_:
        yield running_


@pytest.fixture
def store(server: Store) -> Store:
    """The same with a folder of the test's own."""
    server.target = f"{server.bucket}/{next(FOLDERS)}"
    return server


def test_a_checkpoint_is_read_back(store: Store) -> None:
    witness = open_witness(store.target)
    assert witness.sizes() == []
    for size in (1, 2, 3):
        witness.write(size, b"%d\n" % size)
    witness.write(2, b"2\n")
    again = open_witness(store.target)
    assert again.sizes() == [1, 2, 3]
    assert [again.read(size) for size in (1, 2, 3)] == [b"1\n", b"2\n", b"3\n"]


def test_the_store_itself_refuses_to_replace_a_checkpoint(store: Store) -> None:
    """No read comes before it: another writer may come between the two."""
    witness = open_witness(store.target)
    assert isinstance(witness, ObjectWitness)
    witness.write(1, b"one")
    if store.ignores_conditions:
        assert "ifGenerationMatch=0" in store.log.read_text(errors="replace")
        return
    with pytest.raises(WitnessConflict, match="nothing was replaced"):
        witness.write(1, b"other")
    path = f"{store.target.partition('://')[2]}/000000000001.json"
    with pytest.raises(Exception) as refused:  # noqa: PT011 - each store has its own
        witness._files.pipe_file(path, b"other", mode="create")
    assert not isinstance(refused.value, TypeError)
    assert witness.read(1) == b"one"


def test_of_many_writers_of_one_size_one_wins(store: Store) -> None:
    if store.ignores_conditions:
        pytest.skip("the emulator replaces objects whatever it is asked")
    lost: list[bytes] = []

    def write(content: bytes) -> None:
        try:
            open_witness(store.target).write(1, content)
        except WitnessConflict:
            lost.append(content)

    contents = [str(number).encode() * 1000 for number in range(8)]
    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([*lost, open_witness(store.target).read(1)]) == contents


def test_checkpoints_are_sealed_to_a_store_and_verified_from_it(
    store: Store,
    commanded: tuple[Sealing, Path, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sealed, key, vkey = commanded
    arguments = ["checkpoint", "--key", str(key), "--to", store.target]
    folder = ["--to", f"file:{sealed.folder}"]
    assert cli.main([*arguments, *folder]) == 0
    sealed.run(10, NAMES[1])
    assert cli.main(arguments) == 0
    assert f"written to {store.target}" in capsys.readouterr().out
    verify = ["verify", "--no-asset-events", "--checkpoints", store.target, "--vkey", vkey]
    assert cli.main(verify) == 0
    assert "checkpoints: 6 seals" in capsys.readouterr().out
    content: Any = json.loads(open_witness(store.target).read(6))
    assert content["note"].startswith("example.com/audit\n6\n")


def test_a_store_that_is_down_is_reported(store: Store) -> None:
    if not store.bucket.startswith("s3:"):
        pytest.skip("its client tries again for minutes")
    witness = open_witness(store.target)
    witness.write(1, b"one")
    store.stop()
    for ask in (witness.sizes, lambda: witness.read(1), lambda: witness.write(2, b"")):
        with pytest.raises(WitnessFailed):
            ask()
