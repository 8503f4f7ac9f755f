"""Pages that need nothing but themselves."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.result import Result
from tests.results import HOSTILE, make_result
from tools.pages.elements import Share, confusion, shares, table, tiles
from tools.pages.html import VOID, Html, join, tag, write_page
from tools.pages.metrics import compare, title_of
from tools.pages.results import Published, citation, write_result_page

PUBLISHED = Published(
    name=f"VideoMAE-B {HOSTILE}", metrics={"top1": 0.48}, protocol="linear probe, split 1", source="arXiv 2410.24213"
)


class Reader(HTMLParser):
    """Reads a page, and fails on elements that are closed in another order than they were opened in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self._opened: list[str] = []
        self.feed(page)
        self.close()
        assert not self._opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._opened and self._opened[-1] != "style":
            self.texts.append(data)


@given(st.text(), st.text())
def test_text_is_shown_as_it_is_whatever_it_holds(text: str, attribute: str) -> None:
    reader = Reader(tag("p", text, Html("<b>&amp;</b>"), title=attribute))
    assert reader.tags == ["p", "b"]
    assert "".join(reader.texts) == text + "&"


def test_what_is_html_already_is_not_escaped_twice() -> None:
    assert join("<", Html("<br>"), between="&") == "&lt;&amp;<br>"
    assert tag("td", tag("b", "<"), class_="a", hidden=True, title=None) == '<td class="a" hidden><b>&lt;</b></td>'


@pytest.mark.parametrize(
    "element",
    [
        tiles([(HOSTILE, HOSTILE, [HOSTILE])]),
        table([[HOSTILE, HOSTILE]], head=[HOSTILE, HOSTILE], numbers=[1]),
        shares([Share(name=HOSTILE, value=0.5, interval=(0.4, 0.6), note=HOSTILE)], chance=0.1),
        confusion([HOSTILE, "b"], [[1, 2], [0, 0]]),
    ],
    ids=["tiles", "table", "shares", "confusion"],
)
def test_no_name_becomes_an_element(element: Html) -> None:
    reader = Reader(element)
    assert "script" not in reader.tags
    assert any(HOSTILE in text for text in reader.texts)


def test_a_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", HOSTILE, tag("p", "text"))
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert not re.search(r'(src|href)="(?!data:|#)|url\((?!#)|@import', page)
    assert "script" not in Reader(page).tags


def test_a_result_page_shows_numbers_intervals_protocol_digests_and_what_is_published(tmp_path: Path) -> None:
    results = {f"run {HOSTILE}": make_result(0.62), "untrained": make_result(0.31)}
    write_result_page(tmp_path / "probe.html", "A probe", results, published=[PUBLISHED])
    reader = Reader((tmp_path / "probe.html").read_text())
    text = " ".join(reader.texts).replace("\u00a0", " ")
    for wanted in ("62.0 %", "56.0 to 68.0", "31.0 %", "linear probe", "a" * 64, "c" * 64, "d" * 64, "48.0 %"):
        assert wanted in text
    assert "published" in reader.texts
    assert "script" not in reader.tags
    assert "arXiv 2410.24213" in text


def test_a_result_that_does_not_beat_the_untrained_encoder_says_so(tmp_path: Path) -> None:
    for top1, said in ((0.62, "beats the same"), (0.35, "does not clearly beat"), (0.31, "does not beat")):
        write_result_page(tmp_path / "page.html", "t", {"run": make_result(top1), "untrained": make_result(0.31)})
        assert said in (tmp_path / "page.html").read_text()


def test_protocols_that_differ_are_told_apart(tmp_path: Path) -> None:
    write_result_page(tmp_path / "page.html", "t", {"a": make_result(0.6, seed=3), "b": make_result(0.5, seed=4)})
    text = " ".join(Reader((tmp_path / "page.html").read_text()).texts)
    shared, _, different = text.partition("What differs between them")
    assert "num_train" in shared
    assert "num_train" not in different.partition("To cite")[0]
    assert "seed" in different.partition("To cite")[0]


def test_a_result_of_another_evaluator_is_shown_too(tmp_path: Path) -> None:
    result = Result(metrics={"t2v_r1": 0.1, "t2v_median_rank": 17.5}, protocol={"evaluator": "retrieval"})
    write_result_page(tmp_path / "page.html", "t", {"run": result})
    text = " ".join(Reader((tmp_path / "page.html").read_text()).texts)
    assert "text to video R@1" in text
    assert "17.5" in text
    assert "1,750" not in text


def test_no_result_makes_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_result_page(tmp_path / "page.html", "t", {})
    assert not (tmp_path / "page.html").exists()


def test_a_citation_holds_all_that_decides_the_numbers() -> None:
    cited = citation("run x", make_result(0.62, seed=7))
    for wanted in (
        "run x: top-1 62.0\u00a0% [56.0 to 68.0]",
        "num_val 200",
        "seed 7",
        "model " + "c" * 64,
        "reelshard",
    ):
        assert wanted in cited


@pytest.mark.parametrize(
    ("value", "interval", "better"),
    [(0.5, (0.45, 0.55), True), (0.5, (0.35, 0.65), False), (0.3, (0.2, 0.4), False), (0.5, None, True)],
)
def test_better_means_that_the_intervals_lie_apart(
    value: float, interval: tuple[float, float] | None, better: bool
) -> None:
    ours = Share(name="it", value=value, interval=interval)
    assert compare(ours, Share(name="that", value=0.3, interval=(0.25, 0.4)))[0] is better


def test_metrics_have_the_titles_of_the_field() -> None:
    titles = [title_of(name) for name in ("top1", "top5", "t2v_r10", "v2t_median_rank", "mean_class_top1", "loss")]
    assert titles == ["top-1", "top-5", "text to video R@10", "video to text median rank", "mean class top-1", "loss"]
