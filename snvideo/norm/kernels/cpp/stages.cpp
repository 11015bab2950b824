// Switchable Normalization on a CPU: its four stages, each a pass over x and the tables about it.
//
// Between the first and the second, and the third and the fourth, processes may join their batches.
// Plain C functions of raw pointers, called with ctypes (`cpu.py`): nothing here depends on a
// version of torch or Python.

#include <vector>

#include "kernels.h"

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
void x_gradient(const Sizes& s, const T* dy, const T* x, const T* center, const T* scale,
                const double* moments, const double* batch, const double* dinstance,
                const double* dbatch, T* dx) {
    std::vector<T> of_x(2 * s.n * s.c);
    T *slope = of_x.data(), *level = slope + s.n * s.c;
    slope_and_level(s, dinstance, dbatch, center, moments, batch, slope, level);
    input_gradient(s, dy, x, center, scale, slope, level, dx);
}

}  // namespace

#define STAGES(T, SUFFIX)                                                                          \
    void statistics_##SUFFIX(const Sizes* s, const T* x, T* center, double* found,                 \
                             double* batch) {                                                      \
        statistics(*s, x, center, found, batch);                                                   \
    }                                                                                              \
    void normalized_##SUFFIX(const Sizes* s, const T* x, const T* center, const double* moments,   \
                             const double* batch, const T* weight, const T* bias,                  \
                             const T* mean_logits, const T* var_logits, T* scale, double* offset,    \
                             double* rstd, T* y) {                                              \
        normalized(*s, x, center, moments, batch, weight, bias, mean_logits, var_logits, scale,    \
                   offset, rstd, y);                                                              \
    }                                                                                              \
    void table_gradients_##SUFFIX(const Sizes* s, const T* dy, const T* x, const T* center,        \
                                  const double* moments, const double* batch, const double* offset,  \
                                  const double* rstd, const T* weight, const T* mean_logits,    \
                                  const T* var_logits, double* dweight, double* dbias,             \
                                  double* dlogits, double* dinstance, double* dbatch) {            \
        table_gradients(*s, dy, x, center, moments, batch, offset, rstd, weight, mean_logits,     \
                        var_logits, dweight, dbias, dlogits, dinstance, dbatch);                   \
    }                                                                                              \
    void x_gradient_##SUFFIX(const Sizes* s, const T* dy, const T* x, const T* center,             \
                             const T* scale, const double* moments, const double* batch,           \
                             const double* dinstance, const double* dbatch, T* dx) {               \
        x_gradient(*s, dy, x, center, scale, moments, batch, dinstance, dbatch, dx);               \
    }

extern "C" {
STAGES(float, float32)
STAGES(double, float64)
}
