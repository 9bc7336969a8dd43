"""The attention kernels alone: against a plain twin in double precision, and their own bits."""

import numpy as np
import pytest

from llmlite.engine.kv_cache import AttentionState, quantize
from llmlite.errors import UnsupportedError
from tests.support.attention import KINDS, Layer, close, cuts, each, numbers, spec_of, through, twin


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


DTYPES = pytest.mark.parametrize("dtype", KINDS, ids=KINDS.values())


SHAPES = [  # group, key/value heads, key size, value size
    (1, 3, 8, 8), (2, 4, 40, 40), (4, 2, 64, 64), (3, 1, 72, 72), (1, 2, 80, 80), (2, 2, 96, 96),
    (5, 1, 100, 100), (2, 2, 128, 128), (4, 1, 256, 256), (12, 1, 64, 32), (2, 1, 192, 128),
    (16, 1, 576, 512), (2, 1, 10, 14),
]  # fmt: skip


@each("group, n_head_kv, key_size, value_size", SHAPES, 2, 3)
def test_any_head_size_equals_the_twin(rng, group, n_head_kv, key_size, value_size, dtype) -> None:
    spec = spec_of(group, n_head_kv, key_size, value_size)
    q, k, v = numbers(rng, spec, 300, dtype)
    got = through(Layer(spec, dtype, n_parts=2, threads=2), q, k, v, [255, 1, 1, 33], dtype)
    close(got, twin(spec, q, k, v, 0))


IN_KEYS = [  # as above: a value is the beginning of its key
    (16, 1, 576, 512), (4, 1, 576, 512), (128, 1, 192, 128), (1, 2, 64, 48), (5, 1, 48, 16), (3, 1, 40, 32),
]  # fmt: skip


@each("group, n_head_kv, key_size, value_size", IN_KEYS, 2, 3)
def test_values_that_are_the_beginning_of_their_keys_equal_the_twin(
    rng, group, n_head_kv, key_size, value_size, dtype
) -> None:
    spec = spec_of(group, n_head_kv, key_size, value_size, values_in_keys=True)
    q, k, v = numbers(rng, spec, 300, dtype)
    got = through(Layer(spec, dtype, n_parts=2, threads=2), q, k, v, [255, 1, 1, 33], dtype)
    close(got, twin(spec, q, k, v, 0))


WINDOWED = [  # group, key/value heads, key size, window
    (4, 1, 64, 31), (2, 2, 64, 32), (3, 1, 40, 33), (2, 1, 128, 64), (1, 2, 72, 200), (5, 1, 16, 256),
    (2, 1, 8, 1),
]  # fmt: skip


@each("group, n_head_kv, head_size, window", WINDOWED, 2)
def test_a_window_sees_its_own_positions_however_often_the_ring_turns(
    rng, group, n_head_kv, head_size, window, dtype
) -> None:
    spec = spec_of(group, n_head_kv, head_size, window=window)
    n = 3 * window + 130
    q, k, v = numbers(rng, spec, n, dtype)
    expected = twin(spec, q, k, v, 0)
    for sizes in ([37], [window + 1, 1, 2], [max(1, window - 1), 5, 1]):
        chunk = max(sizes)
        layer = Layer(spec, dtype, n_parts=3, threads=2)
        assert AttentionState(spec, n, dtype, chunk).size <= -(-(window + chunk) // 32) * 32
        close(through(layer, q, k, v, sizes, dtype, chunk), expected)


@DTYPES
@pytest.mark.parametrize("window", [0, 1, 30, 65])
def test_without_causal_a_query_sees_both_sides(rng, window, dtype) -> None:
    spec = spec_of(2, 2, 32, causal=False, window=window)
    q, k, v = numbers(rng, spec, 301, dtype)
    close(through(Layer(spec, dtype, threads=3), q, k, v, [301], dtype), twin(spec, q, k, v, 0))


@each("head_size", [(24,), (64,)], 0)
@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("extra", ["softcap", "sinks", "alibi", "alibi without causal", "all"])
def test_soft_cap_sinks_and_alibi_equal_the_twin(rng, extra, window, head_size, dtype) -> None:
    spec = spec_of(
        3, 2, head_size, window=window, scale=0.7,
        softcap=5.0 if extra in ("softcap", "all") else 0.0, causal="without" not in extra,
    )  # fmt: skip
    q, k, v = numbers(rng, spec, 300, dtype)
    sinks = rng.standard_normal(6).astype(np.float32) + 5 if extra in ("sinks", "all") else 0
    slopes = 2.0 ** -np.arange(1, 7, dtype=np.float32) if "alibi" in extra or extra == "all" else 0
    sizes = [299, 1] if spec.causal else [300]
    layer = Layer(spec, dtype, n_parts=2, threads=4, sinks=sinks, slopes=slopes)
    got = through(layer, q, k, v, sizes, dtype, max(sizes))
    close(got, twin(spec, q, k, v, 0, sinks, slopes))


def test_scores_so_far_apart_that_weights_vanish_are_no_fault(rng) -> None:
    spec = spec_of(2, 1, 16, scale=1.0)
    q, k, v = numbers(rng, spec, 600, np.float32)
    k *= np.float32(300)
    got = through(Layer(spec, np.float32, n_parts=3, threads=2), q, k, v, [599, 1], np.float32, 599)
    expected = twin(spec, q, k, v, 0)  # scores of a thousand have rounding errors of 1e-4
    assert np.abs(got - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("n_parts, threads", [(0, 1), (3, 2)])
def test_what_is_not_a_number_reaches_every_query_that_sees_it_and_no_other(rng, n_parts, threads) -> None:
    spec = spec_of(2, 1, 16)
    for which in (1, 2):
        data = list(numbers(rng, spec, 600, np.float32))
        data[which][300, 3] = np.nan
        got = through(Layer(spec, np.float32, n_parts=n_parts, threads=threads), *data, [1], np.float32)
        assert np.isfinite(got[:300]).all()
        assert np.isnan(got[300:]).any(axis=-1).all()


# ---- one order of summation --------------------------------------------------------------------------------

CUT_SIZES = ([1], [2], [7], [37], [64], [256], [257, 1, 255], [100, 1, 1, 3, 150])
SAME_BITS = [  # key size, value size, group, rest
    (64, 64, 4, {}), (128, 128, 2, {}), (256, 256, 2, {}), (40, 24, 3, {}), (8, 8, 1, {}),
    (64, 48, 5, {"values_in_keys": True}), (160, 128, 12, {"values_in_keys": True}),
    (64, 64, 3, {"window": 70}), (64, 64, 1, {"window": 300, "softcap": 9.0}), (80, 80, 12, {"window": 33}),
]  # fmt: skip


@each("key_size, value_size, group, rest", SAME_BITS, 0, 1)
def test_a_query_has_the_same_bits_however_the_text_is_cut_and_shared(
    rng, key_size, value_size, group, rest, dtype
) -> None:
    spec = spec_of(group, 1 if group > 4 else 3, key_size, value_size, **rest)
    q, k, v = numbers(rng, spec, 600, dtype)
    sinks = rng.standard_normal(spec.n_head).astype(np.float32)
    slopes = rng.random(spec.n_head).astype(np.float32) / 50
    for extra in ({}, {"sinks": sinks, "slopes": slopes}):
        whole = through(Layer(spec, dtype, **extra), q, k, v, [600], dtype, 600)
        for i, sizes in enumerate(CUT_SIZES):
            # some with parts shared among threads, some with room for two parts only
            layer = Layer(spec, dtype, n_parts=(0, 3, 2)[i % 3], threads=1 + i % 4, **extra)
            got = through(layer, q, k, v, sizes, dtype, max(sizes))
            assert got.tobytes() == whole.tobytes(), (sizes, layer.n_parts, layer.threads)


@DTYPES
@pytest.mark.parametrize("window", [0, 45])
@pytest.mark.parametrize("threads, n_parts", [(1, 0), (2, 3), (3, 3), (4, 2)])
def test_sequences_of_one_step_do_not_see_each_other_and_have_the_bits_they_have_alone(
    rng, threads, n_parts, window, dtype
) -> None:
    spec = spec_of(2, 3, 64, window=window)
    lengths = [5, 600, 33, 290]
    texts = [numbers(rng, spec, n, dtype) for n in lengths]
    alone = [through(Layer(spec, dtype), *text, [64], dtype, 64) for text in texts]
    layer = Layer(spec, dtype, threads=threads, n_parts=n_parts)
    states = [AttentionState(spec, n, dtype, 64) for n in lengths]
    done, got = [0] * 4, [[] for _ in texts]
    while any(at < n for at, n in zip(done, lengths)):
        parts, members = [], []
        for i, (q, k, v) in enumerate(texts):
            n = min((1, 64, 3, 7)[(i + len(got[i])) % 4], lengths[i] - done[i])
            if n:
                rows = slice(done[i], done[i] + n)
                parts.append((states[i], done[i], q[rows], k[rows], v[rows]))
                members.append((i, n))
        out = layer.step(parts)
        for i, n in members:
            got[i].append(out[:n])
            out, done[i] = out[n:], done[i] + n
    for i, (q, k, v) in enumerate(texts):
        together = np.concatenate(got[i])
        close(together, twin(spec, q, k, v, 0))
        assert together.tobytes() == alone[i].tobytes()


@each("key_size, value_size", [(24, 40), (64, 96)], 0, 1)
def test_a_store_writes_each_position_to_its_place_in_the_ring(rng, key_size, value_size, dtype) -> None:
    spec = spec_of(1, 3, key_size, value_size, window=40)
    q, k, v = numbers(rng, spec, 500, dtype)
    layer, state = Layer(spec, dtype, threads=3), AttentionState(spec, 500, dtype, 50)
    for a, b in cuts(500, [50, 1, 7]):
        layer.step([(state, a, q[a:b], k[a:b], v[a:b])])
    held = slice(500 - state.size, 500)
    for head in range(3):
        np.testing.assert_array_equal(
            state.keys(head, held.start, 500), k[held].reshape(-1, 3, key_size)[:, head]
        )
        np.testing.assert_array_equal(
            state.values(head, held.start, 500), v[held].reshape(-1, 3, value_size)[:, head]
        )


# ---- Q8_0 --------------------------------------------------------------------------------------------------


def test_store_and_state_round_the_same_numbers_to_the_same_bytes(rng) -> None:
    spec = spec_of(1, 2, 64, 96)
    q, k, v = numbers(rng, spec, 500, np.float32)
    for x in (k, v):
        x *= np.exp(rng.uniform(-30, 10, (500, 1))).astype(np.float32)  # float16 scales down to 0
        x[::7, :40] = 0
        x[::5, ::3] = (x[::5, :1] / 127 * np.float32(2.5)).astype(np.float32)  # near halves
    x[3], x[4], x[5] = 1e-35, 1e-42, 0
    layer = Layer(spec, np.int8, threads=2)
    stored, written = (AttentionState(spec, 500, np.int8, 256) for _ in range(2))
    layer.step([(stored, 0, q, k, v)])
    written.write(0, k.reshape(500, 2, 64), v.reshape(500, 2, 96))
    for name in ("k", "v", "k_scales", "v_scales"):
        assert getattr(stored, name).tobytes() == getattr(written, name).tobytes(), name


def test_a_block_stands_for_numbers_within_half_a_step(rng) -> None:
    x = rng.standard_normal((100, 64), np.float32)
    codes, scales = quantize(x)
    step = np.abs(x.reshape(100, 2, 32)).max(axis=-1) / 127
    error = np.abs(x.reshape(100, 2, 32) - codes.reshape(100, 2, 32) * scales.astype(np.float32)[..., None])
    assert (error <= step[..., None] * (0.5 + 127 / 2048)).all()  # half a step, and the scale's own rounding
    assert np.abs(codes).max() == 127


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_q8_0_shows_what_it_can_not_hold_to_every_query_that_sees_it(rng, number) -> None:
    spec = spec_of(2, 1, 32)
    for which in (1, 2):
        data = list(numbers(rng, spec, 40, np.int8))
        data[which][20, 3] = number
        got = through(Layer(spec, np.int8), *data, [1], np.int8)
        assert np.isfinite(got[:20]).all()
        assert np.isnan(got[20:]).any(axis=-1).all()
        state = AttentionState(spec, 40, np.int8, 40)
        state.write(0, data[1][:, None], data[2][:, None])
        read = state.keys(0, 0, 40) if which == 1 else state.values(0, 0, 40)
        assert not np.isfinite(read[20]).any() and np.isfinite(np.delete(read, 20, 0)).all()


@pytest.mark.parametrize("sizes", [(40, 64), (64, 40)])
def test_sizes_that_are_no_blocks_are_refused_by_name(sizes) -> None:
    with pytest.raises(UnsupportedError, match="multiple of 32 numbers, this model's have 40"):
        AttentionState(spec_of(1, 1, *sizes), 32, np.int8, 32)


def test_q8_0_takes_34_bytes_where_float16_takes_64() -> None:
    q8_0, f16 = (
        AttentionState(spec_of(1, 3, 64, 96), 1024, dtype, 256).n_bytes for dtype in (np.int8, np.float16)
    )
    assert q8_0 * 64 == f16 * 34


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_shapes_equal_the_twin_and_have_the_same_bits(seed) -> None:
    rng = np.random.default_rng(seed)
    dtype = rng.choice([np.float16, np.float32, np.int8])
    group, n_head_kv = int(rng.integers(1, 13)), int(rng.integers(1, 4))
    key_size, value_size = (int(n) for n in rng.integers(4, rng.choice([40, 300]), 2) * 2)
    if rng.random() < 0.5:
        value_size = key_size = int(rng.choice([64, 128, 256, key_size]))
    if dtype == np.int8:
        key_size, value_size = -(-key_size // 32) * 32, -(-value_size // 32) * 32
    window = int(rng.choice([0, rng.integers(1, 400)]))
    spec = spec_of(
        group, n_head_kv, key_size, value_size, window=window, softcap=float(rng.choice([0, 20.0]))
    )
    n = int(rng.integers(1, 1100))
    q, k, v = numbers(rng, spec, n, dtype)
    sinks = rng.standard_normal(spec.n_head).astype(np.float32) if rng.random() < 0.5 else 0
    slopes = rng.random(spec.n_head).astype(np.float32) if rng.random() < 0.3 else 0
    expected = twin(spec, q, k, v, 0, sinks, slopes)
    seen = None
    for _ in range(2):
        sizes = [int(size) for size in rng.integers(1, 300, 4)]
        layer = Layer(
            spec, dtype, threads=int(rng.integers(1, 5)), n_parts=int(rng.integers(0, 6)), sinks=sinks,
            slopes=slopes,
        )  # fmt: skip
        got = through(layer, q, k, v, sizes, dtype, max(sizes))
        close(got, expected)
        assert seen is None or seen.tobytes() == got.tobytes()
        seen = got
