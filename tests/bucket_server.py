"""An S3 server on the loopback, with faults: what an object store may do to whoever uses it.

It is moto's; or with MINIPLM_TEST_S3=ceph a real one, Ceph's gateway (`tests/rados_server.py`), behind the same faults.
Requests are answered one after the other, so that conditional puts are decided as a store decides them: moto checks
the condition and writes in two steps.
"""

import http.client
import os
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.rados_server import RadosServer

BUCKET = "warehouse"
SECRET = "wJalrXUtnFEMI-not-to-be-told"
KEY = "AKIANOTTOBETOLD00001"
CHOSEN = "MINIPLM_TEST_S3"
HOP_BY_HOP = ("connection", "transfer-encoding", "date", "server")
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>told: {key} {secret}</Message></Error>'


EMPTY_LISTING = (
    b'<?xml version="1.0"?><ListBucketResult><Name>warehouse</Name><Prefix/><KeyCount>0</KeyCount>'
    b"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)


class _Quiet(WSGIRequestHandler):
    def log(self, *_args: object) -> None:
        """Say nothing."""


class BucketServer:
    """The server.

    Attributes:
        fault: is given method and path of each request, and names what goes wrong with it, None: nothing. `cut` drops
            the connection before the answer, `late cut` after the request was done; a number is that status; a code
            of S3 is that error.
        requests: how many there were, by method.
        watch: is told of each request, `before` it is done and `after`; says whether it is dropped.
        takes_no_quotes: whether those of an ETag are a part of it, as for Ceph's gateway.
        listings_lag: whether listings show nothing, as those of a store that has not come to it yet.
    """

    def __init__(self) -> None:
        self.fault: Callable[[str, str], str | None] = lambda _method, _path: None
        self.watch: Callable[[str, str, str], bool] = lambda _when, _method, _path: False
        self.listings_lag = self.takes_no_quotes = False
        self.requests: Counter[str] = Counter()
        self._real = None if os.environ.get(CHOSEN) != "ceph" else RadosServer(BUCKET, KEY, SECRET)
        self._app = DomainDispatcherApplication(create_backend_app) if self._real is None else self._pass_on
        self._one_at_a_time = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        if self._real is None:
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT"), timeout=60).close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client is told by."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        if self._real is not None:
            self._real.close()

    @contextmanager
    def faulty(self, fault: Callable[[str, str], str | None]) -> Iterator[None]:
        """Let requests go wrong for a while."""
        before, self.fault = self.fault, fault
        try:
            yield
        finally:
            self.fault = before

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._one_at_a_time:
            self.requests[method] += 1
            fault = "cut" if self.watch("before", method, path) else self.fault(method, path)
            if fault is not None and fault != "late cut":
                return self._fail(fault, environ, start_response)
            if self.listings_lag and "list-type" in environ["QUERY_STRING"]:
                start_response("200 OK", [("Content-Type", "application/xml")])
                return [EMPTY_LISTING]
            if self.takes_no_quotes and environ.get("HTTP_IF_MATCH", "").startswith('"'):
                return self._fail("412", environ, start_response)
            body = list(self._app(environ, start_response))
            self.watch("after", method, path)
        return self._fail("cut", environ, start_response) if fault == "late cut" else body

    def _pass_on(self, environ, start_response):
        """Let the real server answer: to the request as it came, whose signature holds its headers."""
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
        }
        connection = http.client.HTTPConnection(self._real.address, timeout=60)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        # As the client spelled it.
        connection.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        start_response(f"{answer.status} {answer.reason}", kept)
        return [content]

    def _fail(self, fault: str, environ, start_response):
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("cut")
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = (fault, "SlowDown" if fault == "503" else "InternalError") if fault.isdigit() else ("400", fault)
        start_response(f"{status} Told", [("Content-Type", "application/xml")])
        return [ERROR.format(code=code, key=KEY, secret=SECRET).encode()]
