"""A real S3 server on the loopback: Ceph's, of a monitor, a store in memory and a gateway, started in seconds.

    apt-get install --no-install-recommends ceph-mon ceph-osd radosgw
    MINIPLM_TEST_S3=ceph python -m pytest tests/test_object_store.py

Nothing of it is a service of the machine, and nothing outlives it.
"""

import atexit
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Final

import boto3

from tests.ports import free_port

START_SECONDS: Final = 120.0
CONFIGURATION: Final = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
mon allow pool size one = true
mon max pg per osd = 1000
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {folder}
"""


class RadosServer:
    """The server, with an empty bucket.

    Attributes:
        address: of the gateway.
    """

    def __init__(self, bucket: str, key: str, secret: str) -> None:
        """Start it.

        Args:
            bucket: that it has.
            key: of its one user.
            secret: of the key.

        Raises:
            RuntimeError: if it does not answer in `START_SECONDS`.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="ceph-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        monitor, gateway = free_port(), free_port()
        self.address = f"127.0.0.1:{gateway}"
        self._file = self._folder / "ceph.conf"
        fsid = str(uuid.uuid4())
        self._file.write_text(CONFIGURATION.format(fsid=fsid, folder=self._folder, monitor=monitor, gateway=gateway))
        atexit.register(self.close)
        try:
            self._start(fsid, monitor, bucket, key, secret)
        except BaseException:
            self.close()
            raise

    def _start(self, fsid: str, monitor: int, bucket: str, key: str, secret: str) -> None:
        monitors = str(self._folder / "monmap")
        for name in ("mon", "osd"):
            (self._folder / name).mkdir()
        _run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{monitor}]", monitors)
        self._do("ceph-mon", "--id", "a", "--mkfs", "--monmap", monitors)
        self._serve("ceph-mon", "--id", "a")
        self._do("ceph", "osd", "create")
        self._do("ceph-osd", "--id", "0", "--mkfs")
        self._do("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=here")
        self._serve("ceph-osd", "--id", "0")
        user = ["--uid=one", "--display-name=one", f"--access-key={key}", f"--secret-key={secret}"]
        self._do("radosgw-admin", "user", "create", *user)
        self._serve("radosgw", "--name", "client.rgw")
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"http://{self.address}"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway does not answer; its log is in {self._folder}")
            time.sleep(0.2)
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.address}",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=bucket)

    def _do(self, *command: str) -> None:
        _run(*command, "--conf", str(self._file))

    def _serve(self, *command: str) -> None:
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
        with (self._folder / "printed.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*ends_with_us, *command, "--conf", str(self._file), "-f"], stdout=log, stderr=subprocess.STDOUT
                )
            )

    def close(self) -> None:
        """End it."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
        )


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
