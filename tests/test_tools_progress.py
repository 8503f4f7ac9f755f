import io

import pytest

from tools.progress import spell_seconds, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_plain_last_line_with_count_and_failures() -> None:
    file = io.StringIO()
    with track("building", total=10, unit="clips", file=file) as progress:
        progress(4)
        progress(6, failed=1)
    (line,) = file.getvalue().splitlines()
    assert line.startswith("building: 10 of 10 clips, ")
    assert line.endswith("1 failed")
    assert "clips/s" in line


def test_counts_so_far_replace_the_count() -> None:
    file = io.StringIO()
    with track("verifying", total=3, unit="shards", file=file) as progress:
        progress.at(1)
        progress.at(3, 2)
    assert "3 of 3 shards" in file.getvalue()
    assert "2 failed" in file.getvalue()


def test_the_last_line_is_written_on_an_error_too() -> None:
    file = io.StringIO()

    def fail_half_way() -> None:
        with track("building", total=9, unit="clips", file=file) as progress:
            progress(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert "2 of 9 clips" in file.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    file = Terminal()
    with track("building", total=None, unit="clips", file=file) as progress:
        progress(2)
    assert "building: 2 clips" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_a_duration_is_spelled(seconds: float, words: str) -> None:
    assert spell_seconds(seconds) == words
