"""Which frames a video has, and when each is shown.

A frame is named by the packet that it is decoded from, and its number is its place among the video's frames by
presentation time. Nothing is counted off a decoder without being compared with this: decoders leave frames out (behind
a cut, before an edit begins), and every frame after them would get a wrong number.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from shards.builder.failure import BuildFailure

_LOST_FRAMES = 0.05  # this share of the packets may give no frame, such as one that only repeats the frame before
_MAX_LEADING = 16  # no codec holds back more frames than that to show others first


class Packet(NamedTuple):
    """One packet of the video stream. Times are in ticks of the stream's time base; None where the file has none.

    Attributes:
        pts: presentation time.
        dts: decoding time.
        is_key: decoding can begin here.
        is_shown: its frame is part of the video: no edit list leaves it out, and it is not only there for others to
            refer to.
    """

    pts: int | None
    dts: int | None
    is_key: bool
    is_shown: bool


class Shown(NamedTuple):
    """The frames of a video by presentation time.

    Attributes:
        packets: the packet of each frame, by its place in the file.
        seconds: when each is shown, relative to the first.
    """

    packets: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The packets of one video.

    Attributes:
        packets: all of them, in the file's order.
        tick_seconds: the time base.
        frame_seconds: duration of a frame at the stream's rate, for files without times.
        has_pts: the container stores presentation times. AVI does not; what a demuxer gives there is a guess.
        reorders: the codec may show frames in another order than that of the packets.
    """

    packets: tuple[Packet, ...]
    tick_seconds: float
    frame_seconds: float
    has_pts: bool
    reorders: bool

    @cached_property
    def first(self) -> int:
        """The packet at which decoding begins: the first key frame. What lies before it cannot be decoded."""
        return next((number for number, packet in enumerate(self.packets) if packet.is_key), 0)

    @cached_property
    def candidates(self) -> tuple[int, ...]:
        """The packets that should give a frame, in the file's order."""
        return tuple(n for n in range(self.first, len(self.packets)) if self.packets[n].is_shown)

    @cached_property
    def expected(self) -> Shown | None:
        """The frames if every packet gives one; None where only the decoder knows in which order they are shown."""
        if self._by_pts:
            return self.settle(sorted(self.candidates, key=self._pts))
        return None if self.reorders else self.settle(self.candidates)

    @property
    def covered_seconds(self) -> float:
        """Time from the first packet's frame to the end of the last one's, decodable or not.

        The last frame is taken to last as long as the longest before it.
        """
        shown = [number for number, packet in enumerate(self.packets) if packet.is_shown]
        ticks = [self.packets[number].pts for number in shown]
        known = sorted(tick for tick in ticks if tick is not None)
        if self.has_pts and len(known) == len(shown):
            times = [tick * self.tick_seconds for tick in known]
        else:
            times = [self._clock[number] for number in shown]
        longest = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
        return times[-1] - times[0] + max(longest, self.frame_seconds)

    def settle(self, decoded: Sequence[int]) -> Shown:
        """Tell which frames the video has.

        Args:
            decoded: the packets of all frames that came out of the decoder, in this order.

        Raises:
            BuildFailure: frames are missing, or it cannot be told which.
        """
        if not decoded:
            raise BuildFailure("decode_error", f"none of the {len(self.candidates)} frames decodes, with no error")
        if len(set(decoded)) < len(decoded):
            raise BuildFailure("decode_error", "one packet gives several frames: it cannot be told which is which")
        lost = sorted(set(self.candidates).difference(decoded))
        num_leading = sum(1 for number in lost if self._leads(number, decoded))
        if len(lost) - num_leading > max(2, _LOST_FRAMES * len(self.candidates)):
            found = f"{len(decoded)} frames decode of the {len(self.candidates)} in the file, with no error"
            raise BuildFailure("truncated", found)
        seconds = self._seconds(decoded, lost, num_leading)
        return Shown(tuple(decoded), tuple(round(time - seconds[0], 6) for time in seconds))

    @cached_property
    def _by_pts(self) -> bool:
        return self.has_pts and all(self.packets[number].pts is not None for number in self.candidates)

    def _pts(self, number: int) -> int:
        pts = self.packets[number].pts
        assert pts is not None
        return pts

    def _leads(self, lost: int, decoded: Sequence[int]) -> bool:
        """A frame stored behind the first key frame but shown before it refers to what was cut off: that is no loss."""
        if self._by_pts:
            key = self.packets[self.first].pts
            return key is not None and self._pts(lost) < key
        return lost <= self.first + _MAX_LEADING and lost < min(set(decoded) - {min(decoded)}, default=0)

    def _seconds(self, decoded: Sequence[int], lost: Sequence[int], num_leading: int) -> list[float]:
        """When frames are shown: their own times, or, where these contradict the decoder's order, those of decoding."""
        if self._by_pts:
            ticks = [self._pts(number) for number in decoded]
            if ticks == sorted(ticks):
                return [tick * self.tick_seconds for tick in ticks]
        if list(decoded) == sorted(decoded):
            return [self._clock[number] for number in decoded]
        if any(number < max(decoded) for number in lost[num_leading:]):
            found = f"{len(decoded)} of {len(self.candidates)} frames decode, and the file has no times that tell which"
            raise BuildFailure("decode_error", found)
        return [self._clock[number] for number in self.candidates[num_leading : num_leading + len(decoded)]]

    @cached_property
    def _clock(self) -> list[float]:
        """A time for each packet, growing in the file's order: its decoding time, or its place at a constant rate.

        Where presentation times grow in the file's order although frames are shown in another, they are decoding times
        under a wrong name.
        """
        for ticks in ([packet.dts for packet in self.packets], [packet.pts for packet in self.packets]):
            known = [tick for tick in ticks if tick is not None]
            if len(known) == len(ticks) and all(before < after for before, after in itertools.pairwise(known)):
                return [tick * self.tick_seconds for tick in known]
        return [number * self.frame_seconds for number in range(len(self.packets))]
