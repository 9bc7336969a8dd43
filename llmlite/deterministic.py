"""Elementary functions with the same bits on every machine: exp, log, power, cos, sin, sums.

C libraries and NumPy's vector code round `exp` or `cos` differently on different processors. Here, every step
is an addition, a subtraction, a multiplication, a division, a rounding to a whole number or an exact scaling.
IEEE 754 defines each of these to the last bit, and their order never changes. NumPy runs each step as a
separate pass, so no compiler can fuse two of them.

All functions take and return float64. Their relative error is at most 1e-15; that of `power` is larger for
large exponents.

Source of the methods: Muller, "Elementary Functions", 3rd edition, chapters 4 and 11 (argument reduction
after Cody and Waite; Taylor polynomials). The coefficients are those of the series.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CHUNK = 8192  # numbers per pass, which stay in the cache
LARGEST_ANGLE = 2.0**22  # radians; up to this angle, the reduction below is exact to 2**-100

LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # 32 bits of ln 2: products with small integers are exact
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")
HALF_PI = tuple(  # pi / 2 in three parts of 30 bits, whose products with n < 2**23 are exact, and the rest
    map(
        float.fromhex,
        ("0x1.921fb54000000p+0", "0x1.10b4611800000p-30", "0x1.313198a000000p-61", "0x1.701b839a25205p-92"),
    )
)
SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")

EXP = [1 / math.factorial(n) for n in range(13, 1, -1)]  # x**13 ... x**2
LOG = [2 / (2 * n + 1) for n in range(11, 0, -1)]  # s**22 ... s**2
SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(8, 0, -1)]  # x**17 ... x**3
COS = [(-1) ** n / math.factorial(2 * n) for n in range(9, 1, -1)]  # x**18 ... x**4


def exp(x: npt.ArrayLike) -> Floats:
    """Return e to the power of each number: x = k ln 2 + r, and e**r from its series.

    Args:
        x: numbers, any shape. -inf gives 0, numbers above 709.78 give inf, NaN gives NaN.
    """
    return _by_chunks(_exp, x)


def log(x: npt.ArrayLike) -> Floats:
    """Return the natural logarithm: x = 2**k m with m near 1, and log m from the series of the inverse tanh.

    Args:
        x: numbers, any shape. 0 gives -inf, a negative number gives NaN, inf gives inf.
    """
    return _by_chunks(_log, x)


def power(x: npt.ArrayLike, y: float) -> Floats:
    """Return x to the power of y as exp(y log x), for x >= 0. The relative error is up to 2e-16 |y log x|."""
    x = np.asarray(x, dtype=np.float64)
    return np.ones_like(x) if y == 0 else exp(y * log(x))


def cos(x: npt.ArrayLike) -> Floats:
    """Return the cosine of angles in radians, any shape.

    Raises:
        ValueError: an angle is beyond ±2**22 (4.19 million), or NaN.
    """
    return _by_chunks(_cos, _angles(x))


def sin(x: npt.ArrayLike) -> Floats:
    """Return the sine of angles in radians, any shape.

    Raises:
        ValueError: as in `cos`.
    """
    return _by_chunks(_sin, _angles(x))


def total(x: npt.ArrayLike) -> Floats:
    """Return the sum over the last axis. The upper half is added to the lower one, until one is left."""
    x = np.asarray(x, dtype=np.float64)
    while x.shape[-1] > 1:
        half = (x.shape[-1] + 1) // 2
        folded = x[..., :half].copy()
        folded[..., : x.shape[-1] - half] += x[..., half:]
        x = folded
    return x[..., 0] if x.shape[-1] else np.zeros(x.shape[:-1])


def _by_chunks(function: Callable[[Floats], Floats], x: npt.ArrayLike) -> Floats:
    x = np.asarray(x, dtype=np.float64)
    flat = x.ravel()
    out = np.empty(flat.shape)
    with np.errstate(all="ignore"):
        for start in range(0, len(flat), CHUNK):
            out[start : start + CHUNK] = function(flat[start : start + CHUNK])
    return out.reshape(x.shape)


def _series(x: Floats, coefficients: list[float]) -> Floats:
    """Evaluate a polynomial by Horner's scheme. The coefficient of the highest power is first."""
    found = np.full(x.shape, coefficients[0])
    for coefficient in coefficients[1:]:
        found *= x
        found += coefficient
    return found


def _exp(x: Floats) -> Floats:
    bounded = np.minimum(np.maximum(x, -746.0), 710.0)  # NaN passes
    k = np.rint(bounded * INVERSE_LN2)
    high = bounded - k * LN2_HIGH  # exact
    low = k * LN2_LOW
    r = high - low
    lost = (high - r) - low
    # e**(r + lost) = 1 + r + (r**2 series + lost): the largest is added last, which rounds away the least
    value = 1.0 + (r + (_series(r, EXP) * (r * r) + lost))
    whole = np.where(np.isnan(k), 0.0, k).astype(np.int64)
    half = whole >> 1  # in two steps, because 2**1024 isn't a float64; only the last one can round
    return np.ldexp(np.ldexp(value, half), whole - half)


def _log(x: Floats) -> Floats:
    m, k = np.frexp(x)  # m in [1/2, 1): exact
    small = m < SQRT_HALF
    m = np.where(small, m + m, m)
    k = (k - small).astype(np.float64)
    f = m - 1.0  # exact
    s = f / (2.0 + f)
    z = s * s
    half_square = 0.5 * f * f
    # log(1 + f) = f - (f**2/2 - s (f**2/2 + R)), R = 2 z/3 + 2 z**2/5 + ...
    rest = half_square - (s * (half_square + _series(z, LOG) * z) + k * LN2_LOW)
    value = k * LN2_HIGH - (rest - f)
    value = np.where(x > 0, value, np.where(x == 0, -np.inf, np.nan))
    return np.where(np.isposinf(x), np.inf, value)


def _angles(x: npt.ArrayLike) -> Floats:
    x = np.asarray(x, dtype=np.float64)
    bad = ~(np.abs(x) <= LARGEST_ANGLE)
    if bad.any():
        raise ValueError(
            f"angle {x[bad].flat[0]:g}: expected one between -2**22 and 2**22 radians; larger ones have too "
            "few digits in float64"
        )
    return x


def _reduced(x: Floats) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Return the quadrant n mod 4, and x - n pi/2 as the sum of a number and its rounding error."""
    n = np.rint(x * TWO_OVER_PI)
    high, low = x, np.zeros_like(x)
    for part in HALF_PI:
        product = n * part  # exact for the first three
        difference = high - product
        # Knuth's two-sum: the rounding error of the subtraction
        back = difference - high
        low = low + ((high - (difference - back)) - (product + back))
        high = difference
    reduced = high + low
    return n.astype(np.int64) & 3, reduced, low - (reduced - high)


def _sin_near_zero(r: Floats, low: Floats) -> Floats:
    z = r * r
    return r + (_series(z, SIN) * z * r + low * (1.0 - 0.5 * z))


def _cos_near_zero(r: Floats, low: Floats) -> Floats:
    z = r * r
    half = 0.5 * z
    w = 1.0 - half
    return w + (((1.0 - w) - half) + (_series(z, COS) * (z * z) - r * low))


def _cos(x: Floats) -> Floats:
    return _turned(x, 1)


def _sin(x: Floats) -> Floats:
    return _turned(x, 0)


def _turned(x: Floats, quarter: int) -> Floats:
    """Return sin(x + quarter pi/2)."""
    n, r, low = _reduced(x)
    n = (n + quarter) & 3
    value = np.where(n & 1, _cos_near_zero(r, low), _sin_near_zero(r, low))
    return np.where(n & 2, -value, value)
