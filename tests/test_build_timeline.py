"""What a timeline makes of packets in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.builder import BuildFailure
from shards.builder.decode.timeline import Packet, Timeline


@st.composite
def streams(draw: st.DrawFn, has_pts: bool = True) -> Timeline:
    """A stream of up to 40 packets, each group of which is shown in any order."""
    ticks = np.cumsum(draw(st.lists(st.integers(1, 5), min_size=1, max_size=40)))
    order: list[int] = []
    while len(order) < len(ticks):
        size = draw(st.integers(1, 5))
        order += draw(st.permutations(list(range(len(order), min(len(order) + size, len(ticks))))))
    packets = tuple(
        Packet(pts=int(ticks[place]), dts=int(tick) - 30, is_key=number == 0, is_shown=True)
        for number, (place, tick) in enumerate(zip(order, ticks, strict=True))
    )
    return Timeline(packets=packets, tick_seconds=0.5, frame_seconds=1.0, has_pts=has_pts, reorders=True)


@given(streams(), st.data())
def test_a_frame_keeps_its_own_time_whichever_others_are_left_out(stream: Timeline, data: st.DataObject) -> None:
    assert stream.expected is not None
    order = list(stream.expected.packets)
    assert [stream.packets[number].pts for number in order] == sorted(packet.pts or 0 for packet in stream.packets)
    lost = data.draw(st.sets(st.sampled_from(order), max_size=min(2, len(order) - 1)))
    shown = stream.settle([number for number in order if number not in lost])
    first = stream.packets[shown.packets[0]].pts or 0
    times = [((stream.packets[number].pts or 0) - first) * 0.5 for number in shown.packets]
    assert list(shown.seconds) == times
    assert not lost & set(shown.packets)


@given(streams(has_pts=False))
def test_without_presentation_times_frames_are_shown_at_the_times_of_decoding(stream: Timeline) -> None:
    assert stream.expected is None
    decoded = sorted(range(len(stream.packets)), key=lambda number: stream.packets[number].pts or 0)
    shown = stream.settle(decoded)
    ticks = [packet.dts or 0 for packet in stream.packets]
    assert list(shown.packets) == decoded
    assert list(shown.seconds) == [(tick - ticks[0]) * 0.5 for tick in ticks]


def test_frames_lost_where_nothing_tells_which_are_a_failure() -> None:
    packets = [Packet(pts=None, dts=number, is_key=number == 0, is_shown=True) for number in range(40)]
    stream = Timeline(packets=tuple(packets), tick_seconds=1.0, frame_seconds=1.0, has_pts=False, reorders=True)
    decoded = [0, 3, 1, 2, *range(5, 40)]
    with pytest.raises(BuildFailure, match="no times that tell which"):
        stream.settle(decoded)
    with pytest.raises(BuildFailure, match="one packet gives several frames"):
        stream.settle([0, 1, 1])
    with pytest.raises(BuildFailure, match="none of the 40 frames decodes"):
        stream.settle([])
