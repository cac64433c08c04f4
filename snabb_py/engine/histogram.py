"""Histograms on a logarithmic scale, four buckets to the octave.

C counts (`histogram_bucket` in engine.h), this file reads: 256 buckets of 64 bits
hold any 64-bit value with an error of at most an eighth. Imports nothing.
"""

from collections.abc import Iterator, Sequence

BUCKETS = 256
SUB_BITS = 2
SUB_BUCKETS = 1 << SUB_BITS


def bucket_low(index: int) -> int:
    """Return the smallest value that falls into a bucket."""
    if index < SUB_BUCKETS:
        return index
    octave, sub = divmod(index - SUB_BUCKETS, SUB_BUCKETS)
    return (SUB_BUCKETS + sub) << octave


def buckets(counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (low, high, count) of each bucket that counted something; high excluded."""
    for index, count in enumerate(counts):
        if count:
            yield bucket_low(index), bucket_low(index + 1), count


def percentile(counts: Sequence[int], share: float) -> int:
    """Return a value that `share` (0 to 1) of the counted ones do not exceed.

    The bucket's upper end: never less than the truth. 0 when nothing was counted.
    """
    total = sum(counts)
    seen = 0
    for _, high, count in buckets(counts):
        seen += count
        if seen >= share * total:
            return high - 1
    return 0
