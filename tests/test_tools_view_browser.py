"""`reelshard view` in a headless Chromium: what is seen, what keys do, and that no text of a data set is ever run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from pipeline.order.draws import TubeMask
from shards.builder.failure import FailureRecord
from tests.browser import VIEWS, look
from tests.datasets import PATCH, SIZE, make_dataset
from tests.results import HOSTILE
from tests.view_sets import Site, make_frames, site_of
from tools.view.masks import MaskView

KEYS = ["<img src=x onerror=alert(1)>", *(f"video{number:03d}" for number in range(29))]
WHY = f"why {HOSTILE} " * 9
FAILURE = FailureRecord(id="f", key="f", path=f"{HOSTILE}.mp4", shard=0, reason="decode_error", message=WHY)
MADE = "main[data-turn]"
# Whether those patches of the canvas are grey that a text says, by two points of each.
GREY = """(expected) => {
  const canvas = document.getElementById("frames"), pen = canvas.getContext("2d"), side = canvas.width / SIDE;
  const at = (x, y) => pen.getImageData(x * side, y * side, 1, 1).data.slice(0, 3).every((value) => value === 128);
  const grey = (row, column) => at(column + 0.25, row + 0.25) && at(column + 0.75, row + 0.6);
  const found = Array.from({ length: SIDE * SIDE }, (_, n) => (grey(Math.floor(n / SIDE), n % SIDE) ? "1" : "0"));
  return found.join("") === expected;
}"""


@contextmanager
def tab_of(browser: Browser, site: Site, path: str = "") -> Iterator[tuple[Page, list[str]]]:
    """A tab, and what went wrong in it."""
    wrong: list[str] = []
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(f"a text was run: {dialog.message}"))
        page.goto(site.address + path)
        page.wait_for_selector(MADE)
        yield page, wrong


def wait_for_frame(page: Page, number: int) -> None:
    expect(page.locator("#frames")).to_have_attribute("data-state", f"frame {number}")


def pixels(page: Page) -> str:
    found: str = page.evaluate("document.getElementById('frames').toDataURL()")
    return found


def test_the_pages_fit_a_telephone_and_a_desk_by_day_and_by_night(tmp_path: Path, browser: Browser) -> None:
    with site_of(make_frames(tmp_path / f"a_set_{HOSTILE}".replace("/", "|"), KEYS, [FAILURE])) as site:
        for path in ("", "#/sample/0", "#/failures", "#/about", "#/?key=nothing"):
            for width, scheme in VIEWS:
                seen = look(browser, site.address + path, width, scheme, ready=MADE)
                assert not seen.problems, f"{path}, {width} pixels, {scheme}"


def test_samples_are_found_and_seen_and_keys_lead_through_them(tmp_path: Path, browser: Browser) -> None:
    with site_of(make_frames(tmp_path / "set", KEYS)) as site, tab_of(browser, site) as (page, wrong):
        expect(page.locator("#total")).to_have_text("30 samples")
        assert page.locator(".card").count() == 24
        page.keyboard.press("j")  # the next page
        expect(page.locator(".card")).to_have_count(6)
        page.keyboard.press("/")
        page.keyboard.type("video02")
        page.keyboard.press("Enter")
        expect(page.locator("#total")).to_have_text("9 samples")
        page.locator(".card").first.click()
        expect(page.locator("#sample-key")).to_have_text("video020")
        wait_for_frame(page, 0)
        page.keyboard.press("ArrowRight")
        wait_for_frame(page, 1)
        page.keyboard.press("ArrowLeft")
        wait_for_frame(page, 0)
        page.keyboard.press("ArrowLeft")
        wait_for_frame(page, 3)
        page.keyboard.press(" ")
        expect(page.locator("#play")).to_have_text("stop")
        wait_for_frame(page, 1)  # it plays, and began anew
        page.keyboard.press(" ")
        expect(page.locator("#play")).to_have_text("play")
        page.keyboard.press("j")
        expect(page.locator("#sample-key")).to_have_text("video021")
        page.keyboard.press("Escape")
        expect(page.locator("#total")).to_have_text("9 samples")  # of the same search
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        assert not wrong


def test_a_label_is_chosen_by_its_name(tmp_path: Path, browser: Browser) -> None:
    with site_of(make_frames(tmp_path / "set", KEYS)) as site, tab_of(browser, site) as (page, wrong):
        while site.json("/api/labels")["num_read"] < len(KEYS):  # they are read in the background
            pass
        page.locator("#label").select_option(label="other")
        expect(page.locator("#total")).to_have_text("15 samples")
        assert not wrong


def test_boxes_and_masks_lie_over_the_frame_and_come_off(tmp_path: Path, browser: Browser) -> None:
    with site_of(make_frames(tmp_path / "set", KEYS)) as site, tab_of(browser, site, "#/sample/1") as (page, wrong):
        expect(page.locator("#objects")).to_have_attribute("aria-pressed", "true")
        wait_for_frame(page, 0)
        page.wait_for_load_state("networkidle")
        covered = pixels(page)
        page.keyboard.press("o")
        expect(page.locator("#objects")).to_have_attribute("aria-pressed", "false")
        page.wait_for_function("before => document.getElementById('frames').toDataURL() !== before", arg=covered)
        page.keyboard.press("o")
        page.wait_for_function("before => document.getElementById('frames').toDataURL() === before", arg=covered)
        assert not wrong


def test_the_mask_covers_what_the_student_does_not_see(tmp_path: Path, browser: Browser) -> None:
    side = SIZE // PATCH
    mask = MaskView(draw=TubeMask(num_positions=side**2), seed=0, grid=(side, side), num_times=2)
    grey = GREY.replace("SIDE", str(side))
    with site_of(make_dataset(tmp_path / "set", 6), mask) as site:
        hidden, later = (site.json(f"/api/mask/2?epoch={epoch}")["hidden"][0] for epoch in (0, 5))
        assert hidden != later
        with tab_of(browser, site, "#/sample/2") as (page, wrong):
            wait_for_frame(page, 0)
            page.keyboard.press("m")
            page.wait_for_function(grey, arg=hidden)
            page.locator("#epoch").fill("5")
            page.locator("#epoch").press("Enter")
            page.wait_for_function(grey, arg=later)
            assert not wrong


def test_words_of_a_data_set_are_shown_and_never_run(tmp_path: Path, browser: Browser) -> None:
    with site_of(make_frames(tmp_path / "set", KEYS, [FAILURE])) as site, tab_of(browser, site) as (page, wrong):
        assert KEYS[0] in page.locator(".card").first.inner_text()
        page.locator(".card").first.click()
        expect(page.locator("#sample-key")).to_have_text(KEYS[0])
        expect(page.locator(".caption")).to_have_text(f"caption 0 {HOSTILE}")
        expect(page.locator(".message").first).to_contain_text(f"What is it? {HOSTILE}")
        page.goto(f"{site.origin}/#/failures")
        expect(page.locator("#total")).to_have_text("1 item")
        expect(page.locator("tbody tr")).to_contain_text(f"{HOSTILE}.mp4")
        page.goto(f"{site.origin}/#/?key=%3Cscript%3Ealert(2)%3C/script%3E")
        expect(page.locator("main")).to_contain_text("Nothing is found.")
        assert page.locator("main script, img[onerror]").count() == 0
        assert not wrong


def test_a_page_of_another_site_gets_nothing_of_it(tmp_path: Path, browser: Browser) -> None:
    other = tmp_path / "other.html"
    with site_of(make_frames(tmp_path / "set", KEYS)) as site, browser.new_context() as context:
        other.write_text(f"""<script>
            const got = window.got = [], image = new Image(), none = () => got.push("none");
            [image.onload, image.onerror] = [() => got.push("picture"), none];
            image.src = "{site.origin}/frame/0/0";
            fetch("{site.origin}/api/set").then((answer) => answer.text()).then((text) => got.push(text), none);
        </script>""")
        page = context.new_page()
        page.goto(site.address)  # so that the browser has its cookie
        page.wait_for_selector(MADE)
        page.goto(other.as_uri())
        page.wait_for_function("window.got.length === 2")
        assert page.evaluate("window.got") == ["none", "none"]


def test_a_frame_that_cannot_be_read_is_said(tmp_path: Path, browser: Browser) -> None:
    dataset = make_dataset(tmp_path / "set", 6)
    with dataset.tar_path(0).open("r+b") as tar:
        tar.seek(int(dataset.extents(0, "clip").offsets[1]))
        tar.write(bytes(9))
    with site_of(dataset) as site, tab_of(browser, site, "#/sample/1") as (page, _):
        expect(page.locator(".error")).to_contain_text("checksum")
