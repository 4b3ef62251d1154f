"""CKNNA against its definition written out term by term, and what must leave it alone."""

import math

import pytest
import torch

from labcore.evaluate import cknna, cknna_sites


def features(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(a, b, k):
    """Every sum over images is a Python loop; neighbours by sorting."""
    n = len(a)

    def cosines(x):
        rows = [[float(v) for v in row] for row in x]
        rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
        return [[sum(p * q for p, q in zip(r, s, strict=True)) for s in rows] for r in rows]

    def nearest(kernel):
        return [set(sorted((j for j in range(n) if j != i), key=lambda j: -kernel[i][j])[:k]) for i in range(n)]

    def hsic(x, y):
        trace = sum(x[i][j] * y[j][i] for i in range(n) for j in range(n))
        sum_x = sum(x[i][j] for i in range(n) for j in range(n))
        sum_y = sum(y[i][j] for i in range(n) for j in range(n))
        chain = sum(x[i][j] * y[j][m] for i in range(n) for j in range(n) for m in range(n))
        return (trace + sum_x * sum_y / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))

    def s(x, y):
        near_x, near_y = nearest(x), nearest(y)
        both = [[float(j in near_x[i] and j in near_y[i]) for j in range(n)] for i in range(n)]
        return hsic(*([[both[i][j] * z[i][j] for j in range(n)] for i in range(n)] for z in (x, y)))

    kernel, other = cosines(a), cosines(b)
    return s(kernel, other) / math.sqrt(s(kernel, kernel) * s(other, other))


@pytest.mark.parametrize(("n", "k"), [(20, 3), (18, 10), (6, 2), (12, 11)])
def test_it_is_its_definition(n, k):
    a = features(n, 7) + 0.3
    b = torch.cat([a[:, :4], features(n, 5, 1)], dim=1)
    value = cknna(a, b, k)
    assert value == pytest.approx(by_hand(a, b, k), abs=1e-12)
    assert 0.01 < abs(value) < 0.99


def test_all_neighbours_is_cka():
    """k = n - 1: unbiased CKA of the normalised features, by centring matrices instead of sums (U-centring of Szekely)."""
    n = 15

    def centred(x):
        x = x / x.norm(dim=1, keepdim=True)
        g = (x @ x.T).fill_diagonal_(0)
        rows, columns = g.sum(1, keepdim=True), g.sum(0, keepdim=True)
        return (g - (rows + columns) / (n - 2) + g.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)

    a, b = features(n, 6), features(n, 6, 1) + features(n, 6)
    k, other = centred(a), centred(b)
    assert cknna(a, b, n - 1) == pytest.approx(float((k * other).sum() / (k.norm() * other.norm())), abs=1e-12)


def test_equal_features_are_one():
    a = features(50, 8)
    assert cknna(a, a) == pytest.approx(1, abs=1e-12)
    assert cknna(a.float(), a.float()) == pytest.approx(1, abs=1e-12)


def test_rotations_and_lengths_of_rows_change_nothing():
    a, b = features(60, 8), features(60, 8) + features(60, 8, 1)
    rotation = torch.linalg.qr(features(8, 8, 2)).Q
    lengths = features(60, 1, 3).exp()
    value = cknna(a, b)
    assert 0.1 < value < 0.9
    for moved in (a @ rotation, a * lengths, a * 1e-200, a * 1e200):
        assert cknna(moved, b) == pytest.approx(value, abs=1e-9)
        assert cknna(b, moved) == pytest.approx(cknna(b, a), abs=1e-9)


def test_images_in_another_order_change_nothing_if_both_change():
    a, b = features(200, 8), features(200, 8) + 0.5 * features(200, 8, 1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert cknna(a[order], b[order]) == pytest.approx(cknna(a, b), abs=1e-12)
    assert cknna(a[order], b) < 0.3 * cknna(a, b)


def test_it_is_symmetric_up_to_the_asymmetry_of_neighbourhoods():
    """Measured: 0.3981 and 0.3977 here; equal where the masks keep everything."""
    a, b = features(60, 8), features(60, 8) + features(60, 8, 1)
    assert 0 < abs(cknna(a, b) - cknna(b, a)) < 1e-3
    assert cknna(a, b, 59) == pytest.approx(cknna(b, a, 59), abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(100, 10), (400, 40), (1000, 10)])
def test_unrelated_features_agree_by_chance_in_k_of_n_neighbours(n, k):
    values = [cknna(features(n, 20, 2 * seed), features(n, 20, 2 * seed + 1), k) for seed in range(3)]
    assert 0.3 * k / n < sum(values) / 3 < 1.2 * k / n


def test_noise_lowers_it():
    teacher, noise = features(300, 16), features(300, 16, 1)
    values = [cknna(teacher + level * noise, teacher) for level in (0.0, 0.1, 0.3, 1.0, 3.0)]
    assert values == sorted(values, reverse=True) and values[0] > 0.999 and values[-1] < 0.2


def test_sites_are_pairs():
    encoder = features(50, 6)
    sites = {(2, 1): encoder + features(50, 6, 1), (1, 3): features(50, 9, 2)}
    values = cknna_sites(sites, encoder, k=5)
    assert list(values) == [(2, 1), (1, 3)]
    assert values == {site: pytest.approx(cknna(x, encoder, 5), abs=1e-12) for site, x in sites.items()}


def test_what_it_refuses(as_users_run):
    a = features(20, 5)
    bad = a.clone()
    bad[3, 1] = float("nan")
    zero = a.clone()
    zero[3] = 0
    for first, second, k, message in (
        (a, a[:19], 10, "20 and 19 images"),
        (a, a, 1, "k from 2 to n - 1"),
        (a, a, 20, "k from 2 to n - 1"),
        (a, a, 5.0, "k was 5.0; give a whole number"),
        (a, a, True, "k was True; give a whole number"),
        (a[:3], a[:3], 2, "at least 4 images"),
        (bad, a, 3, "NaN or infinity in 1 of 20"),
        (a, bad, 3, "second features hold NaN"),
        (zero, a, 3, "zero in 1 of 20 rows"),
        (torch.ones(20, 5), a, 3, "same direction"),
        (0.1 * a.abs()[:, :1].expand(20, 5).float(), a, 3, "same direction"),
        (a, a.long(), 3, "give floating"),
        (a[0], a, 3, "give floating"),
    ):
        with pytest.raises(ValueError, match=message):
            cknna(first, second, k)
    with pytest.raises(ValueError, match="no sites"):
        cknna_sites({}, a)
    with pytest.raises(ValueError, match="site \\(1, 2\\) are all zero"):
        cknna_sites({(1, 1): a, (1, 2): zero}, a)


def test_neighbours_that_tell_nothing_are_refused():
    """Images at the corners of a simplex: every cosine between them is 0, and so is s(K, K)."""
    with pytest.raises(ValueError, match="s\\(K, K\\) = 0"):
        cknna(torch.eye(8), features(8, 3), 2)
