"""The page's server: what it answers, and on which address. It answers by numbers of samples, and never by a path."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from shards.dataset import ShardDataset
from shards.format.beside import FAILURES_NAME, read_failures
from shards.format.errors import MissingDataError, ShardError
from tools.view.catalogue import NONE, Catalogue
from tools.view.masks import MaskView
from tools.view.samples import Frame, Samples, spell_field

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from tools.view.guard import Guard
except ImportError as error:
    raise ImportError(f"`reelshard view` needs {error.name}: pip install 'reelshard[view]'") from None

LOOPBACK = "127.0.0.1"
MOST_ROWS = 200  # of a page
STATIC = Path(__file__).with_name("static")
PAGES_STYLE = Path(__file__).parent.parent / "pages" / "style.css"
FILES = {
    "/": (STATIC / "index.html", "text/html"),
    "/view.css": (STATIC / "view.css", "text/css"),
    "/view.js": (STATIC / "view.js", "text/javascript"),
    "/frames.js": (STATIC / "frames.js", "text/javascript"),
    "/style.css": (PAGES_STYLE, "text/css"),
}
Answer = Callable[[Request], Response]


class Pages:
    """Answers requests about one data set. All are functions that threads run, since they read files."""

    def __init__(self, dataset: ShardDataset, mask: MaskView | None) -> None:
        """Nothing is read yet but labels, in the background."""
        self._dataset, self._mask = dataset, mask
        self._samples, self._catalogue = Samples(dataset), Catalogue(dataset)
        self._failures: list[dict[str, Any]] | None = None

    def close(self) -> None:
        """Stop what goes on in the background."""
        self._catalogue.close()

    def app(self, port: int, token: str) -> Guard:
        """The application that is served at a port to those who know a token."""
        routes = [Route(path, _file(*file)) for path, file in FILES.items()]
        answers: dict[str, Answer] = {
            "/api/set": self.about,
            "/api/labels": self.labels,
            "/api/samples": self.samples,
            "/api/failures": self.failures,
            "/api/sample/{number:int}": self.sample,
            "/api/objects/{number:int}": self.objects,
            "/api/mask/{number:int}": self.mask,
            "/thumbnail/{number:int}": lambda request: _picture(self._samples.thumbnail(self._number(request))),
            "/frame/{number:int}/{place:int}": lambda request: _picture(
                self._samples.frame(self._number(request), request.path_params["place"])
            ),
            "/masks/{number:int}/{place:int}": lambda request: _picture(
                self._samples.masks(self._number(request), request.path_params["place"])
            ),
        }
        routes += [Route(path, _answering(answer)) for path, answer in answers.items()]
        errors: Any = {404: _not_there}
        return Guard(Starlette(routes=routes, exception_handlers=errors), port, token)

    def about(self, request: Request) -> Response:
        """What the data set is."""
        del request
        manifest = self._dataset.manifest
        return JSONResponse(
            {
                "name": self._dataset.directory.resolve().name,
                "split": manifest.split,
                "num_samples": len(self._dataset),
                "num_shards": self._dataset.num_shards,
                "num_bytes": manifest.num_bytes,
                "digest": manifest.digest,
                "fields": [{"name": field.name, "kind": spell_field(field)} for field in manifest.schema],
                "label_names": list(manifest.label_names),
                "failures": dict(manifest.failures),
                "provenance": dict(manifest.provenance),
                "has_student_mask": self._mask is not None,
            }
        )

    def labels(self, request: Request) -> Response:
        """How many samples each label has, as far as they are read."""
        del request
        counts = self._catalogue.counts()
        named = {str(label): count for label, count in counts.items() if label != NONE}
        return JSONResponse({"num_read": self._catalogue.num_read, "counts": named})

    def samples(self, request: Request) -> Response:
        """A page of those that are asked for."""
        offset, limit = _page(request)
        text = request.query_params.get("label", "")
        label = _whole(text, "label") if text else None
        total, numbers = self._catalogue.page(request.query_params.get("key", ""), label, offset, limit)
        names = self._dataset.manifest.label_names
        rows = []
        for number in numbers:
            found = self._catalogue.label(number)
            name = names[found] if found is not None and found < len(names) else found
            rows.append({"number": number, "key": self._dataset.key(number), "label": name})
        return JSONResponse({"total": total, "offset": offset, "num_read": self._catalogue.num_read, "rows": rows})

    def failures(self, request: Request) -> Response:
        """A page of what could not be built, and why."""
        offset, limit = _page(request)
        if self._failures is None:
            try:
                self._failures = read_failures(self._dataset.directory / FAILURES_NAME)
            except MissingDataError:
                self._failures = []
        reason = request.query_params.get("reason", "")
        found = [one for one in self._failures if not reason or one["reason"] == reason]
        reasons = Counter(one["reason"] for one in self._failures)
        return JSONResponse({"total": len(found), "reasons": reasons, "rows": found[offset : offset + limit]})

    def sample(self, request: Request) -> Response:
        """One sample."""
        return JSONResponse(self._samples.describe(self._number(request)))

    def objects(self, request: Request) -> Response:
        """The objects of each frame."""
        return JSONResponse(self._samples.objects(self._number(request)))

    def mask(self, request: Request) -> Response:
        """What the student does not see of a clip."""
        if self._mask is None:
            raise IndexError("no mask is shown: start with --recipe NAME")
        epoch = _whole(request.query_params.get("epoch", "0"), "epoch")
        return JSONResponse(self._mask.to_json(self._number(request), epoch))

    def _number(self, request: Request) -> int:
        number: int = request.path_params["number"]
        if number >= len(self._dataset):
            raise IndexError(f"there is no sample {number}; the last is {len(self._dataset) - 1}")
        return number


def _answering(answer: Answer) -> Answer:
    """The answer, or what was wrong, in one line."""

    def respond(request: Request) -> Response:
        try:
            return answer(request)
        except IndexError as error:
            return JSONResponse({"error": str(error)}, 404)
        except ShardError as error:
            return JSONResponse({"error": str(error)}, 500)
        except (ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return respond


def _not_there(request: Request, error: HTTPException) -> Response:
    del request, error
    return JSONResponse({"error": "there is nothing here"}, 404)


def _file(path: Path, kind: str) -> Answer:
    return lambda request: Response(path.read_bytes(), media_type=kind)


def _picture(frame: Frame) -> Response:
    data, kind = frame
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=60"})


def _page(request: Request) -> tuple[int, int]:
    offset, limit = (
        _whole(request.query_params.get(name, str(default)), name) for name, default in (("offset", 0), ("limit", 24))
    )
    return offset, min(max(limit, 1), MOST_ROWS)


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ValueError(f"{name} is a whole number from 0 on, got {text[:40]!r}")
    return int(text)


@contextlib.contextmanager
def listen(port: int, *, any_free: bool) -> Iterator[socket.socket]:
    """A socket of this machine alone; with `any_free`, at another port where `port` is in use.

    Raises:
        OSError: the port is in use, or is not to be had.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            if not any_free:
                raise OSError(f"port {port} cannot be had ({error.strerror}): give another one as --port") from None
            listening.bind((LOOPBACK, 0))
        listening.listen()
        yield listening


def new_token() -> str:
    """What the address holds that nobody else knows."""
    return secrets.token_urlsafe(16)


def address_of(listening: socket.socket, token: str) -> str:
    """What is to be opened."""
    return f"http://{LOOPBACK}:{listening.getsockname()[1]}/?token={token}"


@contextlib.contextmanager
def serving(
    dataset: ShardDataset, listening: socket.socket, token: str, mask: MaskView | None = None
) -> Iterator[Future[None]]:
    """Answer in a thread as long as this lasts; the result comes when it ends.

    Who waits for it waits for the result: before Python 3.13 a thread whose `join` Ctrl-C interrupts counts as ended,
    and would go on after its socket is closed.
    """
    pages = Pages(dataset, mask)
    config = uvicorn.Config(
        pages.app(listening.getsockname()[1], token),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with ThreadPoolExecutor(1, thread_name_prefix="view") as pool:
        answering = pool.submit(server.run, [listening])
        try:
            yield answering
        finally:
            server.should_exit = True
            wait([answering])
            pages.close()
