"""Inner products with rows, and weighted sums of them: most of the work."""

import numpy as np

from fotmem_clusters.compiled.scalars import float_of, inner


@inner
def numbers_to(count):
    """Return the numbers from 0 to before `count`, int32."""
    numbers = np.empty(count, np.int32)
    for number in range(count):
        numbers[number] = number
    return numbers


@inner
def inner_products(query, rows, numbers, base, out):
    """Compute those of a query ``[D]`` with rows, of numbers from `base` on."""
    for place in range(len(numbers)):
        row, total = rows[base + numbers[place]], np.float32(0)
        for column in range(len(query)):
            total += query[column] * float_of(row[column])
        out[place] = total


@inner
def add_rows(rows, numbers, base, weights, out):
    """Add rows, of numbers from `base` on, times weights, to a vector ``[D]``."""
    count, first = len(numbers), 0
    while first + 8 <= count:  # eight at a time: what they add up to stays in registers
        a, b = rows[base + numbers[first]], rows[base + numbers[first + 1]]
        c, d = rows[base + numbers[first + 2]], rows[base + numbers[first + 3]]
        e, f = rows[base + numbers[first + 4]], rows[base + numbers[first + 5]]
        g, h = rows[base + numbers[first + 6]], rows[base + numbers[first + 7]]
        some = weights[first : first + 8]
        for column in range(len(out)):
            left = some[0] * float_of(a[column]) + some[1] * float_of(b[column])
            left += some[2] * float_of(c[column]) + some[3] * float_of(d[column])
            right = some[4] * float_of(e[column]) + some[5] * float_of(f[column])
            right += some[6] * float_of(g[column]) + some[7] * float_of(h[column])
            out[column] += left + right
        first += 8
    for place in range(first, count):
        weight, row = weights[place], rows[base + numbers[place]]
        for column in range(len(out)):
            out[column] += weight * float_of(row[column])
