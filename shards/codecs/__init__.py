"""Codecs: how an array is stored in fewer bytes. Raw, where every number stands as it is, is no codec."""

from __future__ import annotations

from collections.abc import Mapping

from shards.codecs.base import Codec as Codec
from shards.codecs.base import Fidelity as Fidelity
from shards.codecs.base import UnknownCodecError as UnknownCodecError
from shards.codecs.int8 import Int8
from shards.codecs.yuv420 import Yuv420

CODECS: Mapping[str, Codec] = {codec.name: codec for codec in (Yuv420(), Int8())}


def codec_of(name: str) -> Codec:
    """The codec of this name.

    Raises:
        UnknownCodecError: there is none.
    """
    if name not in CODECS:
        raise UnknownCodecError(
            f"codec {ascii(name)[:40]} is not known; this version reads {' and '.join(CODECS)}, and arrays as they are"
        )
    return CODECS[name]
