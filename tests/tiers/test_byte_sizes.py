"""Numbers of bytes: what is taken, what is refused, and how they are shown."""

import decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metagrad.runtime.byte_sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (4096, 4096),
        (np.int64(7), 7),
        (2e9, 2_000_000_000),
        (np.float32(8), 8),
        ("0", 0),
        ("123", 123),
        ("1_000", 1000),
        ("2e9", 2_000_000_000),
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        (" 500MB ", 500_000_000),
        ("1.5KiB", 1536),
        ("10 B", 10),
        ("3kB", 3000),
        ("2TB", 2 * 10**12),
        ("1PiB", 2**50),
        ("0.3 kB", 300),
        ("1e-1 KiB", 102),
    ],
)
def test_what_is_taken(value, expected):
    result = parse_bytes("memory=", value)
    assert result == expected and type(result) is int


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, TypeError, "memory= must be a number of bytes.*got None"),
        (True, TypeError, "memory= must be a number of bytes.*got True"),
        ([1], TypeError, "memory= must be a number of bytes"),
        ("", ValueError, "memory= must be a number of bytes.*got ''"),
        ("lots", ValueError, "memory= must be a number of bytes.*4GiB"),
        ("-1GB", ValueError, "memory= must be a number of bytes"),
        ("inf", ValueError, "memory= must be a number of bytes"),
        ("1e9999999999", ValueError, "memory= must be a number of bytes"),
        ("4G", ValueError, "unit 'G'.*Write GB for powers of 1000, or GiB .* as in \"4GB\""),
        ("4k", ValueError, "Write kB for powers of 1000, or KiB"),
        ("4 parsecs", ValueError, "memory= has the unit 'parsecs', which is unknown. Units are B"),
        (-1, ValueError, "memory= must not be negative, got -1"),
        (1.5, ValueError, "memory= must be a whole number of bytes, got 1.5"),
        (float("nan"), ValueError, "memory= must be a whole number of bytes, got nan"),
        (float("inf"), ValueError, "memory= must be a whole number of bytes, got inf"),
        (2**63, ValueError, "memory= must be less than 2\\^63"),
        ("1e999 PB", ValueError, "memory= must be less than 2\\^63"),
    ],
)
def test_what_is_refused(value, kind, message):
    with pytest.raises(kind, match=message):
        parse_bytes("memory=", value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.50 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (24 * 2**20, "24.0 MiB"),
        (130 * 2**20, "130 MiB"),
        (4 * 2**30, "4.00 GiB"),
        (2**60, "1024.00 PiB"),
        (-(2**20), "-1.00 MiB"),
    ],
)
def test_how_a_number_is_shown(number, text):
    assert format_bytes(number) == text


@given(st.integers(0, 2**55))
def test_what_is_shown_is_close_and_can_be_given(number):
    assert parse_bytes("x=", format_bytes(number)) == pytest.approx(number, rel=0.006, abs=0.5)


@given(st.integers(0, 2**63 - 1))
def test_texts_of_integers_are_exact(number):
    assert parse_bytes("x=", str(number)) == number
    assert parse_bytes("x=", f"{decimal.Decimal(number) / 1000} kB") == number
