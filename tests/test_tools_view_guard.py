"""Whom the server of `reelshard view` answers: the browser of the one who started it, and nobody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.view_sets import Site, make_frames, site_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(make_frames(tmp_path_factory.mktemp("sets") / "frames", ["a", "b"])) as opened:
        yield opened


OTHER_HOSTS = ["example.org", "example.org:80", "127.0.0.1", "127.0.0.1:1", "localhost.example.org", ""]


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_another_name_for_this_machine_is_refused_as_dns_rebinding_makes_one(site: Site, host: str) -> None:
    answer = site.ask("/api/set", Host=host)
    assert answer.status == 421
    assert b"digest" not in answer.body


def test_its_own_names_are_taken(site: Site) -> None:
    for host in (f"127.0.0.1:{site.port}", f"localhost:{site.port}", f"LOCALHOST:{site.port}"):
        assert site.ask("/api/set", Host=host).status == 200


def test_pages_of_other_sites_read_nothing_and_nobody_changes_anything(site: Site) -> None:
    def fetched(path: str, *fetch: str) -> int:
        names = ("Sec_Fetch_Site", "Sec_Fetch_Mode", "Sec_Fetch_Dest")
        headers: Any = dict(zip(names, fetch, strict=True))
        return site.ask(path, **headers).status

    for path in ("/api/set", "/frame/0/0", "/view.js", "/"):
        assert site.ask(path, Origin="https://example.org").status == 403
        assert site.ask(path, Origin="null").status == 403
        assert fetched(path, "cross-site", "no-cors", "image") == 403
        assert fetched(path, "same-site", "cors", "empty") == 403
        assert fetched(path, "same-origin", "cors", "empty") == 200
    assert fetched("/", "cross-site", "navigate", "document") == 200  # somebody followed a link
    assert fetched("/", "cross-site", "navigate", "iframe") == 403
    assert fetched("/api/set", "cross-site", "navigate", "document") == 403
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert site.ask("/api/samples", method).status == 405


def test_other_users_of_the_machine_get_nothing_without_the_token(site: Site) -> None:
    for cookie in ("", f"reelshard_{site.port}=", f"reelshard_{site.port}=guess", f"other={site.token}"):
        for path in ("/", "/api/set", "/frame/0/0", "/view.js", "/?token=guess", "/?token="):
            answer = site.ask(path, Cookie=cookie)
            assert answer.status == 403
            assert b"printed" in answer.body
    answer = site.ask(f"/?token={site.token}", Cookie="")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert site.ask("/api/set", Cookie=answer.headers["set-cookie"].split(";")[0]).status == 200
    assert site.ask(f"/api/set?token={site.token}", Cookie="").status == 403  # a page's own address alone lets in


def test_answers_hold_the_browser_to_this_server_alone(site: Site) -> None:
    for path in ("/", "/api/set", "/frame/0/0", "/nothing", "/view.js"):
        headers = site.ask(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_it_listens_on_the_loopback_alone(site: Site) -> None:
    local = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert f"0100007F:{site.port:04X}" in local
    assert f"00000000:{site.port:04X}" not in local
