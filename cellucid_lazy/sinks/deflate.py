"""Choosing how a file is deflated: by its level, and by what a sample of it comes to.

zlib, python-isal and zlib-ng have one interface, but their levels are not comparable and neither is
what suits them. So levels are tiers of encoders. A sample of the file tells which of a tier's come
near the smallest; from level 2 on all of these are run, with all that the tiers below chose. So a
higher level is never larger, though a file may not be all like its sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from zlib_ng import zlib_ng

from cellucid_lazy.sinks.sight import PIECES, Octets, Sight, look

Trial = Callable[["Encoder", int], int]


class Encoder(NamedTuple):
    """One way to deflate: a library with zlib's interface, and what it is told."""

    library: Any
    level: int
    memory: int = 9
    strategy: int = zlib.Z_DEFAULT_STRATEGY

    def run(self, octets: Octets, flush: int, before: Octets | None = None) -> bytes:
        """Return a raw deflate stream, ended by ``Z_FINISH`` or left open by ``Z_SYNC_FLUSH``.

        ``before`` is what the stream may refer to without holding it.
        """
        # A negative window leaves out zlib's header and checksum. The numbers are alike in all.
        told = (self.level, zlib.DEFLATED, -zlib.MAX_WBITS, self.memory, self.strategy)
        stream = self.library.compressobj(*told, *([] if before is None else [before.data]))
        head: bytes = stream.compress(octets.data)
        tail: bytes = stream.flush(flush)
        return head + tail


# Measured on genes of a 200,000-cell atlas by the share of bytes that are not zero; stdlib's gzip 6
# is 1. N are log-normalized float32, 8 the same of 8 bits, C counts as float32:
#
#   not zero        FAST            RUNS           QUICK          STEADY         ADAPTIVE
#                 N    8    C     N    8    C     N    8    C     N    8    C     N    8    C
#   < 0.2 %     2.32 1.27 2.27  0.93 0.77 0.94  0.99 1.04 1.01  0.99 0.92 0.98  0.99 0.95 0.93
#   0.2-0.5 %   1.81 1.24 1.73  0.92 0.73 0.94  0.99 1.03 1.07  0.99 0.87 0.99  0.98 0.89 0.90
#   0.5-1 %     1.42 1.18 1.51  0.91 0.75 0.97  1.00 1.04 1.16  1.00 0.85 1.05  0.98 0.85 0.93
#   2-3.3 %     1.10 1.16 1.57  0.92 0.83 1.18  1.02 1.06 1.38  1.01 0.87 1.14  0.99 0.86 0.95
#   5-10 %      1.08 1.12 1.63  0.97 0.89 1.37  1.03 1.05 1.42  1.01 0.91 1.09  0.99 0.91 0.97
#   20-30 %     1.06 1.03 1.43  1.02 0.90 1.47  1.02 1.02 1.29  1.00 0.98 1.01  1.00 0.98 0.94
#   all genes   1.10 1.08 1.58  0.98 0.88 1.26  1.02 1.03 1.31  1.00 0.93 1.06  1.00 0.93 0.95
#   CPU seconds  6.1  2.9  4.2   9.9  4.9  7.7  16.0  7.9  9.2  30.8 18.4 23.7  37.9 22.8 48.5
#
# (20,000 genes; stdlib 86, 61 and 96 s.) RUNS finds no repeats of values: it is twice stdlib 6 on
# logarithms of counts and 17 times on columns that are constant over blocks of cells. zlib-ng 1 is
# up to 9 times stdlib 6, all of zlib-ng up to 6 are 5 times on a constant float32, and 9 is larger
# than 6 on noise. zlib-ng finds no repeats of three bytes, as sorted integers have; PATIENT does.
FAST = Encoder(isal_zlib, 1, 8)
RUNS = Encoder(zlib_ng, 6, strategy=zlib.Z_RLE)
QUICK = Encoder(zlib_ng, 2)
STEADY = Encoder(zlib_ng, 5)
# ADAPTIVE is THOROUGH that begins a new Huffman code twice as often: what is in some order wants
# that, all else is up to 0.15 % larger.
THOROUGH = Encoder(zlib_ng, 6)
ADAPTIVE = Encoder(zlib_ng, 6, 8)
PATIENT = Encoder(zlib, 6, 8)
UTMOST = Encoder(zlib_ng, 9)


class Tier(NamedTuple):
    """What some levels may use.

    Attributes
    ----------
    encoders
        The fastest first; those are run that suit what the file looks like.
    slack
        Those whose sample is at most this many times the smallest are near it. Samples differ, so
        what costs little is run in doubt.
    slow_slack
        The same for those that are not ``CHEAP``.
    patience
        What ``PATIENT``, the slowest by far, must gain on the others to be one of them.
    one
        Whether only the fastest of those near the smallest is run.
    """

    encoders: tuple[Encoder, ...]
    slack: float
    slow_slack: float
    patience: float
    one: bool = False


_LOW = (FAST, RUNS, QUICK, STEADY)
_HIGH = (*_LOW, THOROUGH, ADAPTIVE)
_TIERS = (
    Tier(_LOW, 1.06, 1.06, 1.15, one=True),
    Tier(_LOW, 1.02, 1.005, 1.15),
    Tier(_HIGH, 1.02, 1.005, 1.005),
    Tier((*_HIGH, UTMOST), 1.1, 1.1, 1.005),
)
# Each level's tier, after those below it.
LEVELS: dict[int, tuple[Tier, ...]] = {
    1: _TIERS[:1],
    **dict.fromkeys((2, 3, 4, 5), _TIERS[:2]),
    **dict.fromkeys((6, 7, 8), _TIERS[:3]),
    9: _TIERS,
}
CHEAP = (FAST, RUNS, QUICK)
# Where values do not repeat these two only cost time.
SEEKING = (QUICK, STEADY)
# Below this share of bytes that are not zero RUNS is as fast as FAST, and FAST falls behind.
RUNS_SHARE = 1 / 30
# Below this share PATIENT gains next to nothing: a third of a percent at most.
DENSE_SHARE = 1 / 10

# A sample holds about so many bytes that are not zero, and deflates to so many.
SAMPLE_BYTES, SAMPLE_NONZERO, SAMPLE_DEFLATED = 16_384, 512, 512
WINDOW_BYTES = 32_768


def deflate(octets: Octets, level: int, flush: int, sight: Sight | None = None) -> bytes:
    """Deflate with the encoders that suit the data and the level.

    Parameters
    ----------
    octets
        Shape (nbytes,).
    level
        1 to 9; a higher one is never larger.
    flush
        ``Z_FINISH`` or ``Z_SYNC_FLUSH``.
    sight
        What the file looks like, if that is known. Default: it is looked at.

    Returns
    -------
    bytes
        A raw deflate stream.

    Raises
    ------
    ValueError
        For another level.
    """
    if level not in LEVELS:
        raise ValueError(f"gzip level {level!r}: expected 1 to 9")
    sight = look(octets) if sight is None else sight
    trial = _trials(octets, sight)
    chosen = (one for tier in LEVELS[level] for one in _choose(tier, sight, octets.nbytes, trial))
    return min((one.run(octets, flush) for one in dict.fromkeys(chosen)), key=len)


def _trials(octets: Octets, sight: Sight) -> Trial:
    """Tell, once each, how many bytes an encoder makes of a sample of some length."""

    @cache
    def trial(encoder: Encoder, length: int) -> int:
        sample, before = _sample(octets, sight, length)
        # Runs refer to nothing that came before.
        return len(encoder.run(sample, zlib.Z_FINISH, None if encoder is RUNS else before))

    return trial


def _sample(octets: Octets, sight: Sight, length: int) -> tuple[Octets, Octets]:
    """Join pieces around what is not zero; also return what came before the first of them."""
    size, end = length // (8 * PIECES) * 8, 0
    starts: list[int] = []
    for left, place in zip(range(PIECES, 0, -1), sight.places, strict=True):
        starts.append(min(max(end, place - size // 2), octets.nbytes - left * size) // 8 * 8)
        end = starts[-1] + size
    sample = np.concatenate([octets[start : start + size] for start in starts])
    return sample, octets[max(0, starts[0] - WINDOW_BYTES) : starts[0]]


def _choose(tier: Tier, sight: Sight, n_bytes: int, trial: Trial) -> list[Encoder]:
    """Choose a tier's encoders by what they make of a sample; of a short file, all."""
    if tier.one and not sight.repeats:
        return [RUNS if sight.share < RUNS_SHARE else FAST]
    tried = [one for one in tier.encoders if _suits(one, sight)]
    length = int(SAMPLE_NONZERO / sight.share) if sight.share else n_bytes
    length = max(SAMPLE_BYTES, length)
    while 2 * length <= n_bytes:
        sizes = {one: trial(one, length) for one in tried}
        near = _near(tier, sizes, min(sizes.values()))
        if near != [RUNS] and sight.share >= DENSE_SHARE:
            patient = trial(PATIENT, length)
            if patient * tier.patience < min(sizes.values()):
                near = [*_near(tier, sizes, patient), PATIENT]
        if trial(near[0], length) >= SAMPLE_DEFLATED:
            return near[:1] if tier.one else near
        length *= 4
    return [*tried, *([PATIENT] if sight.share >= DENSE_SHARE else [])]


def _suits(encoder: Encoder, sight: Sight) -> bool:
    """Whether an encoder may be best for what a file looks like."""
    if encoder in SEEKING:
        return sight.repeats
    if encoder in (THOROUGH, ADAPTIVE):
        return (encoder is THOROUGH) == (sight.even and not sight.repeats)
    return True


def _near(tier: Tier, sizes: dict[Encoder, int], smallest: int) -> list[Encoder]:
    """Return those near the smallest, the fastest first."""
    slacks = {one: tier.slack if one in CHEAP else tier.slow_slack for one in sizes}
    return [one for one in sizes if sizes[one] <= smallest * slacks[one]]
