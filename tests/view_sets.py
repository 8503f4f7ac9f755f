"""Data sets to look at, and the page's server as a test asks it."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.builder.failure import FailureRecord
from shards.dataset import ShardDataset
from shards.format.beside import FAILURES_NAME
from shards.format.manifest import Manifest, shard_name
from shards.format.objects import write_objects
from shards.format.publish import canonical_json
from shards.format.schema import Field, Schema
from shards.writer import ShardWriter
from tests.results import HOSTILE
from tools.view.masks import MaskView
from tools.view.server import listen, new_token, serving

SIZE, NUM_FRAMES = 32, 4
CHAT = [{"role": "user", "content": f"What is it? {HOSTILE}"}, {"role": "assistant", "content": [{"text": "A disc."}]}]


@dataclass(frozen=True)
class Answer:
    """What the server says."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    """A running server."""

    port: int
    token: str

    @property
    def address(self) -> str:
        """What a browser opens, without a path behind it."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask with a path as it is, as one who knows the token; `Host` and `Cookie` replace what is sent else."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Cookie": f"reelshard_{self.port}={self.token}"} | headers
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in named, skip_accept_encoding=True)
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        answer = self.ask(path)
        assert answer.status == 200, answer.body
        return answer.json()


@contextmanager
def site_of(dataset: ShardDataset, mask: MaskView | None = None) -> Iterator[Site]:
    token = new_token()
    with listen(0, any_free=False) as socket, serving(dataset, socket, token, mask):
        yield Site(socket.getsockname()[1], token)


def picture(number: int, place: int) -> bytes:
    """A JPEG that depends on both."""
    pixels = np.full((SIZE, SIZE, 3), (40 * number % 256, 60 * place % 256, 128), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def disc(number: int, place: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIZE, :SIZE]
    inside: NDArray[np.bool_] = (y - 16) ** 2 + (x - 8 - 4 * place) ** 2 < (5 + number) ** 2
    return inside


def make_frames(directory: Path, keys: Sequence[str], failures: Sequence[FailureRecord] = ()) -> ShardDataset:
    """JPEG frames with masks, chats and hostile words, all in one shard."""
    fields = (Field(name="frames", layout="packed"), Field(name="masks", layout="packed"), Field(name="json"))
    schema = Schema(fields)
    directory.mkdir(parents=True)
    with ShardWriter(directory / shard_name("train", 0, 1), schema) as writer:
        for number, key in enumerate(keys):
            about = {"label": number % 2, "caption": f"caption {number} {HOSTILE}", "messages": CHAT, "id": key}
            masks = [write_objects([(3, disc(number, place))], SIZE) for place in range(NUM_FRAMES)]
            frames = [picture(number, place) for place in range(NUM_FRAMES)]
            writer.write(key, {"frames": frames, "masks": masks, "json": canonical_json(about)})
    counts: dict[str, int] = {}
    for failure in failures:
        counts[failure.reason] = counts.get(failure.reason, 0) + 1
    names = (f"class {HOSTILE}", "other")
    manifest = Manifest(split="train", schema=schema, shards=(writer.info,), label_names=names, failures=counts)
    manifest.write(directory)
    lines = [canonical_json(failure.to_json()) + b"\n" for failure in failures]
    (directory / FAILURES_NAME).write_bytes(b"".join(lines))
    return ShardDataset.open(directory)
