// Common to passes over x (`passes.h`) and arithmetic on tables of one value per sample and channel
// (`tables.h`): sizes, the versions for every processor, and sums of many values.

#pragma once

#include <algorithm>
#include <cstdint>

#include "storage.h"

using std::int64_t;

// One build serves every x86 machine: the loader picks the widest version that the processor knows.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST \
    __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

namespace {

enum Part { INSTANCE, GROUP, LAYER, BATCH, PARTS };

struct Sizes {
    int64_t n, c, l;         // samples, channels, positions
    int64_t groups;          // of samples with batch statistics of their own
    int64_t parts;           // bits of Part, those that are mixed
    int64_t channel_groups;  // with statistics of the group part; 1 without one
    double eps;
    double momentum;         // weight of the batch in running statistics
    bool l1;                 // ratios are abs(logits) over their sum; otherwise their softmax
    bool last;               // channels are last in memory
    bool stored;             // batch statistics are given, and constant
    bool unbiased;           // running variances are
    int threads;             // at most
};

constexpr int64_t LANES = 32;    // independent sums, so that they can be vectors
constexpr int64_t FLUSH = 4096;  // values summed in T before double takes over

struct Pair {
    double first, second;
};

// The sums of two terms over the positions.
template <typename T, typename First, typename Second>
INLINE Pair row_sums_of(int64_t l, First first, Second second) {
    Pair total{0, 0};
    for (int64_t begin = 0; begin < l; begin += FLUSH) {
        const int64_t end = std::min(l, begin + FLUSH);
        T a[LANES] = {}, b[LANES] = {}, rest_a = 0, rest_b = 0;
        int64_t i = begin;
        if (end - begin >= LANES) {
            for (; i + LANES <= end; i += LANES)
                for (int64_t k = 0; k < LANES; k++) {
                    a[k] += first(i + k);
                    b[k] += second(i + k);
                }
            for (int64_t half = LANES / 2; half; half /= 2)
                for (int64_t k = 0; k < half; k++) {
                    a[k] += a[k + half];
                    b[k] += b[k + half];
                }
        }
        for (; i < end; i++) {
            rest_a += first(i);
            rest_b += second(i);
        }
        total.first += a[0] + rest_a;
        total.second += b[0] + rest_b;
    }
    return total;
}

}  // namespace
