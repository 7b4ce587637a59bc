"""A real S3 server on this machine, whose requests are counted and can be disturbed."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import obstore
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from obstore.store import ObjectStore, from_url
from werkzeug.serving import make_server

Environ = dict[str, Any]


class Asked(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    range: str


class S3Server:
    """Moto's server on a free port, with one bucket."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        """All requests, in order."""
        self.instead: Callable[[Environ], Any] = lambda environ: None
        """Called before each answer; may return an application that answers in place of moto's."""
        self._putting = threading.Lock()  # S3 checks a condition and writes at once, moto does not
        self._copied: dict[tuple[str, str], bytes] = {}
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.bucket = f"bucket-{secrets.token_hex(4)}"  # moto's buckets outlive its server
        with urlopen(HttpRequest(f"{self.endpoint}/{self.bucket}", method="PUT")):
            pass
        self.asked.clear()

    def url(self, folder: str = "memory") -> str:
        return f"s3://{self.bucket}/{folder}"

    def store(self, folder: str = "memory") -> ObjectStore:
        """The objects below a folder."""
        return from_url(self.url(folder))

    def keys(self, folder: str = "memory") -> set[str]:
        """The names of all objects below a folder."""
        return {each["path"] for some in obstore.list(self.store(folder)) for each in some}

    def upload(self, source: Path, folder: str = "memory") -> str:
        """Copy the files of a folder that have changed, one by one; return its URL."""
        store = self.store(folder)
        for path in source.rglob("*"):
            key = path.relative_to(source).as_posix()
            data = path.read_bytes() if path.is_file() else None
            if data is not None and self._copied.get((folder, key)) != data:
                obstore.put(store, key, data)
                self._copied[folder, key] = data
        return self.url(folder)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _answer(self, environ: Environ, start_response: Any) -> Any:
        path, part = environ["PATH_INFO"], environ.get("HTTP_RANGE", "")
        self.asked.append(Asked(environ["REQUEST_METHOD"], path, part))
        return (self.instead(environ) or self.app)(environ, start_response)

    def app(self, environ: Environ, start_response: Any) -> Any:
        """Answer as moto does."""
        with self._putting if environ["REQUEST_METHOD"] == "PUT" else nullcontext():
            return self._app(environ, start_response)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server that environment variables lead to."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.stop()
