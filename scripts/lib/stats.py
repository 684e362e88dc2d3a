"""The few statistics that the checks need. A Kolmogorov-Smirnov test by its p-value would fail one honest run in a
hundred, so its distance D is bounded over many samples instead."""

import math


def quantile(values, share):
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def median(values):
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def ks_two_samples(first, second):
    """Largest distance between the empirical distributions of two samples."""
    a, b = sorted(first), sorted(second)
    if not a or not b:
        return math.nan
    i = j = 0
    distance = 0.0
    while i < len(a) and j < len(b):
        x = min(a[i], b[j])
        while i < len(a) and a[i] <= x:
            i += 1
        while j < len(b) and b[j] <= x:
            j += 1
        distance = max(distance, abs(i / len(a) - j / len(b)))
    return distance


def ks_law(values, distribution):
    """Largest distance between a sample and a law, given as its distribution function."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    count = len(ordered)
    distance = 0.0
    for index, value in enumerate(ordered):
        law = distribution(value)
        distance = max(distance, abs(law - index / count), abs(law - (index + 1) / count))
    return distance


def erlang(shape, mean):
    """Distribution function of a sum of `shape` exponential times of this mean."""

    def distribution(value):
        if value <= 0:
            return 0.0
        x = value / mean
        term, total = 1.0, 1.0
        for n in range(1, shape):
            term *= x / n
            total += term
        return 1.0 - math.exp(-x) * total

    return distribution


def ks_bound(count):
    """A distance that an honest sample exceeds about three times in ten thousand."""
    return round(2.1 / math.sqrt(count), 4) if count else 0.0


def correlation(first, second):
    """Pearson's r; nan when one of the two never changes."""
    count = min(len(first), len(second))
    if count < 2:
        return math.nan
    first, second = first[:count], second[:count]
    mean_a, mean_b = sum(first) / count, sum(second) / count
    var_a = sum((a - mean_a) ** 2 for a in first)
    var_b = sum((b - mean_b) ** 2 for b in second)
    if var_a == 0 or var_b == 0:
        return math.nan
    return sum((a - mean_a) * (b - mean_b) for a, b in zip(first, second)) / math.sqrt(var_a * var_b)
