// Switchable Normalization on a CPU: its stages, each a pass over x and the tables about it.
//
// Between the first and the second, and the third and the fourth, processes may join their batches.
// Where there is nothing to join, `forward` and `backward` are all of it, in one call each. Functions
// of raw pointers, called with ctypes (`cpu.py`): nothing here depends on a version of torch or
// Python.

#include <vector>

#include "passes.h"
#include "points.h"
#include "tables.h"

namespace {

template <typename S, typename T = Wide<S>>
void statistics(const Sizes& s, const S* x, T* center, double* found, double* batch) {
    moments(s, x, center, found, found + s.n * s.c);
    if (batch) batch_moments(s, found, batch);
}

template <typename S, typename T = Wide<S>>
void normalized(const Sizes& s, const S* x, const T* center, const double* moments,
                const double* batch, const T* weight, const T* bias, const T* mean_logits,
                const T* var_logits, T* scale, double* offset, double* rstd, S* y) {
    std::vector<T> shift(s.n * s.c);
    mixture(s, center, moments, batch, weight, bias, mean_logits, var_logits, scale, shift.data(),
            offset, rstd);
    scale_and_shift(s, x, center, scale, shift.data(), y);
}

template <typename S, typename T = Wide<S>>
void table_gradients(const Sizes& s, const S* dy, const S* x, const T* center,
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

template <typename S, typename T = Wide<S>>
void x_gradient(const Sizes& s, const S* dy, const S* x, const T* center, const double* moments,
                const double* batch, const T* scale, const double* dinstance,
                const double* dbatch, S* dx) {
    std::vector<T> of_x(2 * s.n * s.c);
    T *slope = of_x.data(), *level = slope + s.n * s.c;
    slope_and_level(s, dinstance, dbatch, center, moments, batch, slope, level);
    input_gradient(s, dy, x, center, scale, slope, level, dx);
}

// The batch part's moments in double: of running statistics, or null.
template <typename T>
std::vector<double> stored_moments(const Sizes& s, const T* running_mean, const T* running_var) {
    std::vector<double> batch(running_mean ? 2 * s.c : 0);
    for (int64_t j = 0; j < int64_t(batch.size() / 2); j++) {
        batch[j] = running_mean[j];
        batch[s.c + j] = running_var[j];
    }
    return batch;
}

// What `forward` keeps for `backward`, in one block of memory. Of x with one position, it ends with
// the moments, which are those of `points.h`.
template <typename T>
struct Kept {
    double *batch, *moments, *offset, *rstd;
    T *center, *scale;
    Kept(const Sizes& s, double* memory)
        : batch(has(s, BATCH) ? memory : nullptr),
          moments(memory + (batch ? 2 * s.groups * s.c : 0)), offset(moments + 2 * s.n * s.c),
          rstd(offset + s.n * s.c), center(reinterpret_cast<T*>(rstd + s.n * s.c)),
          scale(center + s.n * s.c) {}
};

template <typename S, typename T = Wide<S>>
void forward(const Sizes& s, const S* x, T* running_mean, T* running_var,
             const T* weight, const T* bias, const T* mean_logits, const T* var_logits,
             double* memory, S* y) {
    const Kept<T> kept(s, memory);
    double* own = s.stored ? nullptr : kept.batch;
    if (s.stored) {
        const std::vector<double> stored = stored_moments(s, running_mean, running_var);
        std::copy(stored.begin(), stored.end(), kept.batch);
    }
    if (s.l > 1)
        statistics(s, x, kept.center, kept.moments, own);
    else if (own) {
        std::vector<T> center(s.groups * s.c);
        moments(groups_as_samples(s), x, center.data(), own, own + s.groups * s.c);
    }
    if (own && running_mean) update_running(s, own, running_mean, running_var);
    if (s.l > 1)
        return normalized(s, x, kept.center, kept.moments, kept.batch, weight, bias, mean_logits,
                          var_logits, kept.scale, kept.offset, kept.rstd, y);
    point_normalized(
        PointMixture<T>(s, kept.moments, kept.batch, weight, bias, mean_logits, var_logits), x, y);
}

template <typename S, typename T = Wide<S>>
void backward(const Sizes& s, const S* dy, const S* x, double* memory, const T* weight,
              const T* mean_logits, const T* var_logits, T* dweight, T* dbias, T* dmean_logits,
              T* dvar_logits, S* dx) {
    const Kept<T> kept(s, memory);
    const int64_t parts = __builtin_popcountll(s.parts);
    const int64_t of_batch = kept.batch ? 2 * s.groups * s.c : 0;
    const int64_t of_instance = s.l > 1 ? 2 * s.n * s.c : 0;
    std::vector<double> gradients(2 * (s.c + parts) + of_batch + of_instance);
    double *of_weight = gradients.data(), *of_bias = of_weight + s.c, *of_logits = of_bias + s.c;
    if (s.l > 1) {
        double *instance = of_logits + 2 * parts, *batch = instance + of_instance;
        if (!kept.batch) batch = nullptr;
        table_gradients(s, dy, x, kept.center, kept.moments, kept.batch, kept.offset, kept.rstd,
                        weight, mean_logits, var_logits, of_weight, of_bias, of_logits, instance,
                        batch);
        if (dx) {
            // Each sample's share in its batch's moments; constants pass nothing on.
            for (int64_t i = 0; i < of_batch; i++) batch[i] *= double(s.groups) / s.n;
            x_gradient(s, dy, x, kept.center, kept.moments, kept.batch, kept.scale, instance,
                       s.stored ? nullptr : batch, dx);
        }
    } else {
        const T* no_bias = nullptr;
        const PointMixture<T> of(s, kept.moments, kept.batch, weight, no_bias, mean_logits,
                                 var_logits);
        point_gradients(of, dy, x, kept.batch, mean_logits, var_logits, of_weight, of_bias,
                        of_logits, dx);
    }
    if (dweight) std::copy_n(of_weight, s.c, dweight);
    if (dbias) std::copy_n(of_bias, s.c, dbias);
    std::copy_n(of_logits, parts, dmean_logits);
    std::copy_n(of_logits + parts, parts, dvar_logits);
}

// Statistics and result of each sample while it is in the caches: without batch statistics of x, and
// without a backward pass, samples have nothing to do with each other.
template <typename S, typename T = Wide<S>>
void evaluated(const Sizes& s, const S* x, const T* running_mean, const T* running_var,
               const T* weight, const T* bias, const T* mean_logits, const T* var_logits, S* y) {
    const std::vector<double> stored = stored_moments(s, running_mean, running_var);
    const double* batch = stored.empty() ? nullptr : stored.data();
    if (s.l == 1) {
        std::vector<double> moments(point_moments(s));
        return point_normalized(PointMixture<T>(s, moments.data(), batch, weight, bias, mean_logits,
                                                var_logits),
                                x, y);
    }
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

}  // namespace

// Exported as pointers, whose names C++ does not mangle.
#define EXPORT(STAGE)                       \
    auto STAGE##_float32 = STAGE<float>;    \
    auto STAGE##_float64 = STAGE<double>;   \
    auto STAGE##_bfloat16 = STAGE<bfloat16>; \
    auto STAGE##_float16 = STAGE<float16>;

extern "C" {
int64_t interface_version = 4;  // raised whenever arguments change, as in cpu.py
EXPORT(statistics)
EXPORT(normalized)
EXPORT(table_gradients)
EXPORT(x_gradient)
EXPORT(forward)
EXPORT(backward)
EXPORT(evaluated)
}
