"""A real S3-compatible server on loopback, and a proxy before it that does what bad networks do."""

from __future__ import annotations

import http.client
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

FAULTS = ("error", "cut_request", "cut_response", "slow_response")


@contextmanager
def moto_server() -> Iterator[int]:
    """Run `moto_server`; skips the test where there is none."""
    program = shutil.which("moto_server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("no S3 server here: pip install 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "Running on" in line:
                break
        drain = threading.Thread(target=lambda: list(server.stderr or []), daemon=True)
        drain.start()
        yield port
    finally:
        server.kill()
        server.wait()
        drain.join()
        assert server.stderr is not None
        server.stderr.close()


def use_bucket(port: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and the environment that leads to it; returns its URL."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):  # the server is on this machine, whatever proxy the network has
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    bucket = "".join(letter if letter.isalnum() else "-" for letter in bucket.lower())[:60].strip("-")
    create = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket}", method="PUT")
    with urllib.request.urlopen(create):
        pass
    return f"s3://{bucket}"


@contextmanager
def http_files(folder: Path, *, ranges: bool = True, served: list[str] | None = None) -> Iterator[str]:
    """A plain HTTP server of the files below a folder, with ranges or without; yields its URL.

    `served` is filled with the paths of what was read.
    """

    class Files(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / unquote(self.path.partition("?")[0]).lstrip("/")
            if not path.is_file():
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")) if ranges else None
            start, stop = (int(found[1]), min(int(found[2]) + 1, size)) if found else (0, size)
            if start >= size > 0:
                self.send_response(416)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            self.send_response(206 if found else 200)
            if found:
                self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("content-length", str(stop - start))
            self.end_headers()
            if self.command == "GET":
                if served is not None:
                    served.append(self.path)
                with path.open("rb") as file:
                    file.seek(start)
                    self.wfile.write(file.read(stop - start))

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def faulty_proxy(
    port: int, share: float, seed: int = 0, faults: Sequence[str] = FAULTS
) -> Iterator[tuple[int, Counter[str]]]:
    """Forward to `port`, spoiling `share` of the requests; yields the proxy's port and what it has done."""
    chance, done, lock = random.Random(seed), Counter[str](), threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            with lock:
                fault = chance.choice(faults) if chance.random() < share else "none"
                done[fault] += 1
            size = int(self.headers.get("content-length", 0))
            body = self.rfile.read(size // 2 if fault == "cut_request" else size)
            if fault == "cut_request":
                self.close_connection = True
                return
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            if fault == "error":
                self.send_response(503)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            server = http.client.HTTPConnection("127.0.0.1", port)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            self._answer(answer, answer.read(), fault)
            server.close()

        def _answer(self, answer: http.client.HTTPResponse, data: bytes, fault: str) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                    self.send_header(name, value)
            length = answer.getheader("content-length") if self.command == "HEAD" else None
            self.send_header("content-length", length or str(len(data)))
            self.end_headers()
            if fault == "cut_response":
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif fault == "slow_response":
                for start in range(0, len(data), 1 + len(data) // 8):
                    self.wfile.write(data[start : start + 1 + len(data) // 8])
                    self.wfile.flush()
                    threading.Event().wait(0.02)
            else:
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy.server_address[1], done
        proxy.shutdown()
