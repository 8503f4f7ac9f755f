"""S3 credentials that are not set come from the metadata service of the machine, or are missed within seconds."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shards.format.errors import ShardError
from shards.store import open_store
from tests.object_store import moto_server, use_bucket
from tools.cli import main

pytest.importorskip("obstore", reason="the extra 's3' is not installed")
LONG_SECONDS = 60  # nobody asks so long for credentials who is not asking for samples


@contextmanager
def silent_service() -> Iterator[tuple[str, list[float]]]:
    """Take connections and say nothing; yields the URL, and how many there were. Ends when one has waited long."""
    waiting: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = []

        def hold(connection: socket.socket) -> None:
            connection.settimeout(LONG_SECONDS)
            with connection, suppress(ConnectionError):
                try:
                    while connection.recv(1 << 16):
                        pass
                except TimeoutError:
                    waiting.append(LONG_SECONDS)
                    listening.close()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    waiting.append(0)
                    threads.append(threading.Thread(target=hold, args=(connection,), daemon=True))
                    threads[-1].start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", waiting


@contextmanager
def metadata_service(answers: dict[str, tuple[int, str]], num_errors: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Answer by path, the first requests with 503; yields the URL, and the paths that were asked for."""
    asked: list[str] = []

    class Service(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            status, text = answers.get(self.path, (404, "")) if len(asked) > num_errors else (503, "")
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def forget_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") and not name.startswith("AWS_ENDPOINT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_metadata_service_that_never_answers_is_asked_three_times_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_credentials(monkeypatch)
    with silent_service() as (url, waiting):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
        assert main(["show", "s3://bucket/set"]) == 1
        assert waiting == [0, 0, 0]
    (line,) = capsys.readouterr().err.splitlines()
    assert "s3://bucket/set/dataset.json cannot be read: no credentials were found; set AWS_ACCESS_KEY_ID" in line


@pytest.mark.parametrize("answers", [{}, {"/latest/api/token": (403, "")}])
def test_a_metadata_service_without_credentials_is_not_asked_again_and_again(
    answers: dict[str, tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_credentials(monkeypatch)
    with metadata_service(answers) as (url, asked):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
        with pytest.raises(ShardError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
            open_store("s3://bucket/set").get("dataset.json")
        assert len(asked) <= 4


@pytest.mark.parametrize("num_errors", [0, 5])
def test_a_machine_of_a_cloud_gets_its_credentials_from_there(
    num_errors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = "/latest/meta-data/iam/security-credentials/"
    keys = {"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}
    answers = {"/latest/api/token": (200, "token"), role: (200, "reader"), f"{role}reader": (200, json.dumps(keys))}
    with moto_server() as port:
        url = use_bucket(port, f"cloud{num_errors}", monkeypatch)
        open_store(url).put("a", b"sample")
        forget_credentials(monkeypatch)
        with metadata_service(answers, num_errors) as (service, asked):
            monkeypatch.setenv("AWS_METADATA_ENDPOINT", service)
            store = open_store(url)
            assert (store.get("a"), store.size("a")) == (b"sample", 6)
            assert asked[-1] == f"{role}reader"
