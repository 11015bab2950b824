// Switchable Normalization on a CPU: the four passes over x.
//
// Each reads or writes x-sized memory once. x is n samples of c channels of l positions, in memory as
// n, c, l or, channels last, as n, l, c; tables have one value per sample and channel. Work is cut by
// shape alone, so results do not depend on the number of threads.

#pragma once

#include <array>
#include <vector>

#include "common.h"

namespace {

constexpr int64_t FIRST_ROWS = 32;       // positions whose mean is taken off, channels last
constexpr int64_t BLOCK_ROWS = 256;      // positions summed in T, channels last
constexpr int64_t PART_VALUES = 262144;  // of a sample that are worth a thread of their own
constexpr int64_t SERIAL = 32768;        // values below which one thread is faster

// Channels first: a row is the l positions of one sample and channel ------------------------------

// The sums of terms over the positions of a row. A term gets what reads the i-th of some values, one or
// eight, and i.
template <typename T, typename... Term>
INLINE std::array<double, sizeof...(Term)> row_totals(int64_t l, Term... term) {
    const auto one = [](const auto* x, int64_t i) { return T(x[i]); };
    const auto eight_of = [](const auto* x, int64_t i) { return eight(x + i); };
    std::array<double, sizeof...(Term)> totals{};
    for (int64_t begin = 0; begin < l; begin += FLUSH) {
        const int64_t end = std::min(l, begin + FLUSH);
        typename Eight<T>::Type sums[sizeof...(Term)][4] = {};
        T rest[sizeof...(Term)] = {};
        int64_t i = begin;
        for (; i + 4 * EIGHT <= end; i += 4 * EIGHT)
            for (int64_t k = 0; k < 4; k++) {
                size_t of = 0;
                ((sums[of++][k] += term(eight_of, i + k * EIGHT)), ...);
            }
        for (; l > EIGHT && i + EIGHT <= end; i += EIGHT) {
            size_t of = 0;
            ((sums[of++][0] += term(eight_of, i)), ...);
        }
        for (; i < end; i++) {
            size_t of = 0;
            ((rest[of++] += term(one, i)), ...);
        }
        for (size_t of = 0; of < sizeof...(Term); of++) {
            const auto a = (sums[of][0] + sums[of][2]) + (sums[of][1] + sums[of][3]);
            const T all = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
            totals[of] += all + rest[of];
        }
    }
    return totals;
}

template <typename S, typename T = Wide<S>>
WIDEST void row_moments(const S* x, int64_t l, T* center, double* mean, double* variance) {
    const T at = T(row_totals<T>(l, [=](auto of, int64_t i) { return of(x, i); })[0] / l);
    const auto [sum, square] = row_totals<T>(
        l, [=](auto of, int64_t i) { return of(x, i) - at; },
        [=](auto of, int64_t i) { return (of(x, i) - at) * (of(x, i) - at); });
    const double rest = sum / l;
    *center = at;
    *mean = at + rest;
    *variance = std::max(square / l - rest * rest, 0.0);  // in this order NaN stays NaN
}

template <typename S, typename T = Wide<S>>
WIDEST void row_sums(const S* dy, const S* x, int64_t l, T center, double* total, double* dot) {
    const auto sums = row_totals<T>(
        l, [=](auto of, int64_t i) { return of(dy, i); },
        [=](auto of, int64_t i) { return of(dy, i) * (of(x, i) - center); });
    *total = sums[0];
    *dot = sums[1];
}

template <typename S, typename T = Wide<S>>
WIDEST void row_scale(const S* x, int64_t l, T center, T scale, T shift, S* __restrict y) {
    for (int64_t i = 0; i < l; i++) y[i] = (x[i] - center) * scale + shift;
}

template <typename S, typename T = Wide<S>>
WIDEST void row_gradient(const S* dy, const S* x, int64_t l, T center, T scale, T slope, T level,
                         S* __restrict dx) {
    for (int64_t i = 0; i < l; i++) dx[i] = dy[i] * scale + (x[i] - center) * slope + level;
}

// Channels last: a block is some positions of all channels of one sample ------------------------

// What loops over channels write is read nowhere else: spares a check for every position.
#define IVDEP _Pragma("GCC ivdep")

// The mean of some positions, and the sum of squares about it. Values are taken relative to the mean
// of the first few. If those are unlike the rest, the variance is large too.
template <typename S, typename T = Wide<S>>
WIDEST void part_moments(const S* x, int64_t rows, int64_t c, double* mean, double* square) {
    std::vector<T> buffer(3 * c);
    T *at = buffer.data(), *rest = at + c, *spread = rest + c;
    const int64_t first = std::min(FIRST_ROWS, rows);
    for (int64_t r = 0; r < first; r++)
        IVDEP for (int64_t j = 0; j < c; j++) at[j] += x[r * c + j];
    for (int64_t j = 0; j < c; j++) at[j] /= first;
    for (int64_t begin = 0; begin < rows; begin += BLOCK_ROWS) {
        const int64_t size = std::min(BLOCK_ROWS, rows - begin);
        const S* b = x + begin * c;
        std::fill(rest, rest + 2 * c, T(0));
        int64_t r = 0;
        for (; r + 2 <= size; r += 2, b += 2 * c)
            IVDEP for (int64_t j = 0; j < c; j++) {
                const T p = b[j] - at[j], q = b[c + j] - at[j];
                rest[j] += p + q;
                spread[j] += p * p + q * q;
            }
        if (r < size)
            IVDEP for (int64_t j = 0; j < c; j++) {
                const T p = b[j] - at[j];
                rest[j] += p;
                spread[j] += p * p;
            }
        IVDEP for (int64_t j = 0; j < c; j++) {
            mean[j] += rest[j];
            square[j] += spread[j];
        }
    }
    IVDEP for (int64_t j = 0; j < c; j++) {
        const double off = mean[j] / rows;
        square[j] = std::max(square[j] - off * off * rows, 0.0);
        mean[j] = at[j] + off;
    }
}

template <typename S, typename T = Wide<S>>
WIDEST void part_sums(const S* dy, const S* x, int64_t rows, int64_t c, const T* center,
                      double* total, double* dot) {
    std::vector<T> buffer(2 * c);
    T *sum = buffer.data(), *product = sum + c;
    for (int64_t begin = 0; begin < rows; begin += BLOCK_ROWS) {
        const int64_t size = std::min(BLOCK_ROWS, rows - begin);
        const S *g = dy + begin * c, *b = x + begin * c;
        std::fill(buffer.begin(), buffer.end(), T(0));
        for (int64_t r = 0; r < size; r++, g += c, b += c)
            IVDEP for (int64_t j = 0; j < c; j++) {
                sum[j] += g[j];
                product[j] += g[j] * (b[j] - center[j]);
            }
        IVDEP for (int64_t j = 0; j < c; j++) {
            total[j] += sum[j];
            dot[j] += product[j];
        }
    }
}

// Parts of a sample for the threads, channels last: by shape, never by the number of threads.
struct Parts {
    int64_t count, rows;
    Parts(int64_t n, int64_t c, int64_t l) {
        const int64_t wanted = std::max<int64_t>(1, std::min(32 / n, l * c / PART_VALUES));
        rows = (l + wanted - 1) / wanted;
        count = (l + rows - 1) / rows;
    }
    int64_t size(int64_t part, int64_t l) const { return std::min(rows, l - part * rows); }
};

template <typename S, typename T = Wide<S>>
WIDEST void part_scale(const S* x, int64_t rows, int64_t c, const T* center, const T* scale,
                       const T* shift, S* __restrict y) {
    for (int64_t r = 0; r < rows; r++, x += c, y += c)
        IVDEP for (int64_t j = 0; j < c; j++) y[j] = (x[j] - center[j]) * scale[j] + shift[j];
}

template <typename S, typename T = Wide<S>>
WIDEST void part_gradient(const S* dy, const S* x, int64_t rows, int64_t c, const T* center,
                          const T* scale, const T* slope, const T* level, S* __restrict dx) {
    for (int64_t r = 0; r < rows; r++, dy += c, x += c, dx += c)
        IVDEP for (int64_t j = 0; j < c; j++)
            dx[j] = dy[j] * scale[j] + (x[j] - center[j]) * slope[j] + level[j];
}

// The passes: every row, or every part of every sample, on its thread ---------------------------

int threads(const Sizes& s) { return s.n * s.c * s.l < SERIAL ? 1 : s.threads; }

template <typename Task>
void for_rows(const Sizes& s, Task task) {
#pragma omp parallel for num_threads(threads(s)) schedule(static)
    for (int64_t row = 0; row < s.n * s.c; row++) task(row, row * s.l);
}

template <typename Task>
void for_parts(const Sizes& s, const Parts& parts, Task task) {
#pragma omp parallel for num_threads(threads(s)) schedule(static)
    for (int64_t i = 0; i < s.n * parts.count; i++) {
        const int64_t sample = i / parts.count, part = i % parts.count;
        const int64_t begin = (sample * s.l + part * parts.rows) * s.c;
        task(i, sample * s.c, begin, parts.size(part, s.l));
    }
}

template <typename S, typename T = Wide<S>>
void moments(const Sizes& s, const S* x, T* center, double* mean, double* variance) {
    if (!s.last)
        return for_rows(s, [=](int64_t row, int64_t at) {
            row_moments(x + at, s.l, center + row, mean + row, variance + row);
        });
    const Parts parts(s.n, s.c, s.l);
    std::vector<double> of_parts(2 * s.n * parts.count * s.c);
    double *means = of_parts.data(), *squares = means + s.n * parts.count * s.c;
    for_parts(s, parts, [=](int64_t i, int64_t, int64_t at, int64_t rows) {
        part_moments(x + at, rows, s.c, means + i * s.c, squares + i * s.c);
    });
    for (int64_t sample = 0; sample < s.n; sample++) {
        double *m = mean + sample * s.c, *v = variance + sample * s.c;
        std::fill_n(m, s.c, 0.0);
        std::fill_n(v, s.c, 0.0);
        double seen = 0;
        for (int64_t part = 0; part < parts.count; part++) {
            const int64_t i = (sample * parts.count + part) * s.c;
            const double size = parts.size(part, s.l), share = size / (seen + size);
            for (int64_t j = 0; j < s.c; j++) {
                const double delta = means[i + j] - m[j];
                v[j] += squares[i + j] + delta * delta * seen * share;
                m[j] += delta * share;
            }
            seen += size;
        }
        for (int64_t j = 0; j < s.c; j++) {
            v[j] /= s.l;
            center[sample * s.c + j] = T(m[j]);
        }
    }
}

template <typename S, typename T = Wide<S>>
void sums(const Sizes& s, const S* dy, const S* x, const T* center, double* total, double* dot) {
    if (!s.last)
        return for_rows(s, [=](int64_t row, int64_t at) {
            row_sums(dy + at, x + at, s.l, center[row], total + row, dot + row);
        });
    const Parts parts(s.n, s.c, s.l);
    std::vector<double> of_parts(2 * s.n * parts.count * s.c);
    double *totals = of_parts.data(), *dots = totals + s.n * parts.count * s.c;
    for_parts(s, parts, [=](int64_t i, int64_t table, int64_t at, int64_t rows) {
        part_sums(dy + at, x + at, rows, s.c, center + table, totals + i * s.c, dots + i * s.c);
    });
    std::fill_n(total, s.n * s.c, 0.0);
    std::fill_n(dot, s.n * s.c, 0.0);
    for (int64_t i = 0; i < s.n * parts.count; i++)
        for (int64_t j = 0, table = i / parts.count * s.c; j < s.c; j++) {
            total[table + j] += totals[i * s.c + j];
            dot[table + j] += dots[i * s.c + j];
        }
}

template <typename S, typename T = Wide<S>>
void scale_and_shift(const Sizes& s, const S* x, const T* center, const T* scale, const T* shift,
                     S* y) {
    if (!s.last)
        return for_rows(s, [=](int64_t row, int64_t at) {
            row_scale(x + at, s.l, center[row], scale[row], shift[row], y + at);
        });
    for_parts(s, Parts(s.n, s.c, s.l), [=](int64_t, int64_t t, int64_t at, int64_t rows) {
        part_scale(x + at, rows, s.c, center + t, scale + t, shift + t, y + at);
    });
}

template <typename S, typename T = Wide<S>>
void input_gradient(const Sizes& s, const S* dy, const S* x, const T* center, const T* scale,
                    const T* slope, const T* level, S* dx) {
    if (!s.last)
        return for_rows(s, [=](int64_t r, int64_t at) {
            row_gradient(dy + at, x + at, s.l, center[r], scale[r], slope[r], level[r], dx + at);
        });
    for_parts(s, Parts(s.n, s.c, s.l), [=](int64_t, int64_t t, int64_t at, int64_t rows) {
        part_gradient(dy + at, x + at, rows, s.c, center + t, scale + t, slope + t, level + t,
                      dx + at);
    });
}

}  // namespace
