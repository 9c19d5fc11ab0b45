"""Damage as it happens to files: bits flipped, bytes lost, repeated, swapped or replaced, ends cut off."""

import random

_PIECES = [
    b"", b"\x00", b"\xff" * 8, b"\x00" * 64,
    b"-1", b"99999999999999999999", b"1e999", b"NaN", b"null", b"[[", b"}}", b'"', b"{", b"\n\t",
    b"\xef\xbb\xbf", b"\xc3\x28", b"../../", b"/etc/passwd", b"!!python/object/apply:os.system ['true']", b"&a [*a]",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with one to four accidents."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice([1, 1, 2, 8, 64]))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[start % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = data[start:stop] * rng.choice([1, 2, 30])
        elif kind == 3:
            data[start:stop] = rng.randbytes(stop - start)
        elif kind == 4:
            data[start:stop] = rng.choice(_PIECES)
        elif kind == 5:
            del data[start:]
        elif data:
            other = rng.randrange(len(data))
            data[other : other + 8], data[start:stop] = data[start:stop], data[other : other + 8]
    return bytes(data)
