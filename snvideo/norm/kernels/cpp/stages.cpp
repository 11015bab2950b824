// Switchable Normalization on a CPU: its stages, each a pass over x and the tables about it.
//
// Between the first and the second, and the third and the fourth, processes may join their batches.
// Functions of raw pointers, called with ctypes (`cpu.py`): nothing here depends on a version of
// torch or Python.

#include <vector>

#include "passes.h"
#include "tables.h"

namespace {

template <typename T>
void statistics(const Sizes& s, const T* x, T* center, double* found, double* batch) {
    moments(s, x, center, found, found + s.n * s.c);
    if (batch) batch_moments(s, found, batch);
}

template <typename T>
void normalized(const Sizes& s, const T* x, const T* center, const double* moments,
                const double* batch, const T* weight, const T* bias, const T* mean_logits,
                const T* var_logits, T* scale, double* offset, double* rstd, T* y) {
    std::vector<T> shift(s.n * s.c);
    mixture(s, center, moments, batch, weight, bias, mean_logits, var_logits, scale, shift.data(),
            offset, rstd);
    scale_and_shift(s, x, center, scale, shift.data(), y);
}

// Statistics and result of each sample while it is in the caches: without batch statistics of x, and
// without a backward pass, samples have nothing to do with each other.
template <typename T>
void evaluated(const Sizes& s, const T* x, const double* batch, const T* weight, const T* bias,
               const T* mean_logits, const T* var_logits, T* y) {
    Sizes one = s;
    one.n = one.groups = 1;
#pragma omp parallel for num_threads(threads(s)) if (s.n >= s.threads) schedule(static)
    for (int64_t i = 0; i < s.n; i++) {
        std::vector<T> values(3 * s.c);
        std::vector<double> tables(4 * s.c);
        T *center = values.data(), *scale = center + s.c, *shift = scale + s.c;
        double *found = tables.data(), *offset = found + 2 * s.c, *rstd = offset + s.c;
        const int64_t at = i * s.c * s.l;
        moments(one, x + at, center, found, found + s.c);
        mixture(one, center, found, batch, weight, bias, mean_logits, var_logits, scale, shift,
                offset, rstd);
        scale_and_shift(one, x + at, center, scale, shift, y + at);
    }
}

template <typename T>
void table_gradients(const Sizes& s, const T* dy, const T* x, const T* center,
                     const double* moments, const double* batch, const double* offset,
                     const double* rstd, const T* weight, const T* mean_logits,
                     const T* var_logits, double* dweight, double* dbias, double* dlogits,
                     double* dinstance, double* dbatch) {
    std::vector<double> of_dy(2 * s.n * s.c);
    double *total = of_dy.data(), *dot = total + s.n * s.c;
    sums(s, dy, x, center, total, dot);
    mixture_gradient(s, total, dot, offset, rstd, moments, batch, weight, mean_logits, var_logits,
                     dweight, dbias, dlogits, dinstance, dbatch);
}

template <typename T>
void x_gradient(const Sizes& s, const T* dy, const T* x, const T* center, const double* moments,
                const double* batch, const T* scale, const double* dinstance,
                const double* dbatch, T* dx) {
    std::vector<T> of_x(2 * s.n * s.c);
    T *slope = of_x.data(), *level = slope + s.n * s.c;
    slope_and_level(s, dinstance, dbatch, center, moments, batch, slope, level);
    input_gradient(s, dy, x, center, scale, slope, level, dx);
}

}  // namespace

// Exported as pointers, whose names C++ does not mangle.
#define EXPORT(STAGE)                    \
    auto STAGE##_float32 = STAGE<float>; \
    auto STAGE##_float64 = STAGE<double>;

extern "C" {
int64_t interface_version = 3;  // raised whenever arguments change, as in cpu.py
EXPORT(statistics)
EXPORT(normalized)
EXPORT(evaluated)
EXPORT(table_gradients)
EXPORT(x_gradient)
}
