"""A plain HTTP server of a folder, with ranges, for measuring on one machine; as if behind a link, where one is given.

python -m tools.bench.serve FOLDER [BYTES_PER_SECOND LATENCY_SECONDS]
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tools.bench.link import Bucket, Link

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@contextlib.contextmanager
def served(folder: Path, link: Link = Link()) -> Iterator[str]:  # noqa: B008
    """Serve a folder from a process of its own; yields its URL."""
    facts = [str(folder.absolute()), str(link.bytes_per_second), str(link.latency_seconds)]
    command = [sys.executable, "-m", "tools.bench.serve", *facts]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def _handler(folder: Path, link: Link) -> type[BaseHTTPRequestHandler]:
    bucket = Bucket(link.bytes_per_second)

    class Files(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(link.latency_seconds)
            path = folder / Path(unquote(self.path)).name  # a flat folder, and nothing outside of it
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            found = _RANGE.fullmatch(self.headers.get("range", ""))
            start, stop = (int(found[1]), min(int(found[2]) + 1, size)) if found else (0, size)
            self.send_response(206 if found else 200)
            if found:
                self.send_header("content-range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("content-length", str(stop - start))
            self.end_headers()
            self.wfile.flush()
            if self.command == "GET":
                with path.open("rb") as file:
                    while start < stop:
                        start = self._send(file.fileno(), start, min(stop, start + bucket.slice_bytes))

        def _send(self, file: int, start: int, stop: int) -> int:
            bucket.take(stop - start)
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file, start, stop - start)
            return stop

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

    return Files


if __name__ == "__main__":
    behind = Link(*map(float, sys.argv[2:4]))
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(Path(sys.argv[1]), behind)) as listening:
        print(listening.server_address[1], flush=True)
        listening.serve_forever()
