"""Primes stream: finds prime numbers and reports as it goes, one JSON line a chunk.

A generator streams: each value it yields is sent to the caller at once, as a line of JSON, while
the function goes on. (Bytes and text that a generator yields are sent as they are.)
"""

import math

SEGMENT = 100_000
LIMIT = 20_000_000


def main(payload):
    up_to = payload.get("up_to", 1_000_000)
    # A generator runs from its first `next`, so this error too reaches the caller as its own.
    if not isinstance(up_to, int) or not 2 <= up_to <= LIMIT:
        raise ValueError(f"up_to must be a whole number from 2 to {LIMIT}, not {up_to!r}")

    base = sieve(math.isqrt(up_to))
    total, largest = 0, 2
    for start in range(2, up_to + 1, SEGMENT):
        end = min(start + SEGMENT - 1, up_to)
        primes = segment(start, end, base)
        total += len(primes)
        largest = primes[-1] if primes else largest
        yield {"from": start, "to": end, "primes": len(primes), "first": primes[:3],
               "so_far": total, "percent": round(100 * end / up_to, 1)}
    yield {"done": True, "up_to": up_to, "primes": total, "largest": largest}


def sieve(up_to):
    """All primes up to and including `up_to`, by Eratosthenes."""
    return segment(2, up_to, range(2, math.isqrt(up_to) + 1))


def segment(start, end, divisors):
    """Primes in start..end, given (at least) the primes up to the square root of `end`.

    Memory stays that of one segment however far we count.
    """
    is_prime = bytearray([1]) * (end - start + 1)
    for divisor in divisors:
        first = max(divisor * divisor, -(-start // divisor) * divisor)
        if first <= end:
            is_prime[first - start :: divisor] = bytes((end - first) // divisor + 1)
    return [start + at for at, prime in enumerate(is_prime) if prime]
