"""A real S3 API on loopback (moto), which can be told to misbehave."""

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from digipath_ray.storage import bucket
from digipath_ray.storage.files import place

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}
BUCKET = "slides-of-a-test"


@dataclass(kw_only=True)
class Fault:
    """What shall go wrong with the next ``times`` requests that it is about.

    Attributes:
        method: of the requests.
        part: text in their path.
        times: how many of them.
        kind: "slow down" (503), "denied" (403), "cut" (the connection ends in the
            middle of the body), "garbled" (a byte of the body is another, each time).
    """

    method: str
    part: str
    kind: str
    times: int = 1
    met: int = 0


@dataclass(kw_only=True)
class Bucket:
    """The server, and what it was asked.

    Attributes:
        endpoint: its URL.
        faults: see :class:`Fault`.
        requests: method and path of every request.
    """

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be told to speak to it."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def asked(self, method: str, part: str) -> int:
        """How many requests there were."""
        return sum(m == method and part in path for m, path in self.requests)


class _Faulty:
    """Moto's application with faults in front of it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self.bucket = Bucket(endpoint="")

    def __call__(
        self, environ: Environ, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ.get("QUERY_STRING", "")
        with self._lock:
            self.bucket.requests.append((method, f"{path}?{query}"))
            fault = self._next_fault(method, path)
        if fault is None:
            return self._app(environ, start_response)
        environ["wsgi.input"] = io.BytesIO(_body(environ))
        if fault.kind in ("slow down", "denied"):
            code = {"slow down": "SlowDown", "denied": "AccessDenied"}[fault.kind]
            status = {"slow down": "503 Slow Down", "denied": "403 Forbidden"}
            body = f"<Error><Code>{code}</Code><Message>told to</Message></Error>"
            start_response(status[fault.kind], [("Content-Type", "application/xml")])
            return [body.encode()]
        body = b"".join(self._app(environ, start_response))
        if fault.kind == "garbled":
            return [body[:-1] + bytes([body[-1] ^ fault.met])]
        return _cut(body)

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.bucket.faults:
            if (
                fault.method == method
                and fault.part in path
                and fault.met < fault.times
            ):
                fault.met += 1
                return fault
        return None


def _body(environ: Environ) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    data: bytes = environ["wsgi.input"].read(length)
    return data


def _cut(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError("told to")


def send(folder: Path, url: str) -> None:
    """Put all files of a folder in a bucket."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.upload(path, place(url) / path.relative_to(folder).as_posix())


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """An S3 server with one empty bucket, :data:`BUCKET`."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = _Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    app.bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        _make_bucket(app.bucket)
        yield app.bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _make_bucket(bucket: Bucket) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    with contextlib.suppress(client.exceptions.ClientError):
        client.delete_bucket(Bucket=BUCKET)
    client.create_bucket(Bucket=BUCKET)
