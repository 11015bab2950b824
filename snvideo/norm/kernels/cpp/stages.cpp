// Switchable Normalization on a CPU: its four stages, each a pass over x and the tables about it.
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
int64_t interface_version = 2;  // raised whenever arguments change, as in cpu.py
EXPORT(statistics)
EXPORT(normalized)
EXPORT(table_gradients)
EXPORT(x_gradient)
}
