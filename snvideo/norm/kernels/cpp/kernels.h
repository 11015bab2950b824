// Switchable Normalization on a CPU: passes over x (`passes.cpp`), and arithmetic on tables of one
// value per sample and channel (`tables.cpp`).

#pragma once

#include <cstdint>

using std::int64_t;

struct Sizes {
    int64_t n, c, l;  // samples, channels, positions
    int64_t groups;   // of samples with batch statistics of their own
    int64_t logits;   // 3, or 2 without the batch part
    double eps;
    bool last;        // channels are last in memory
    int threads;      // at most
};

template <typename T>
void moments(const Sizes& s, const T* x, T* center, double* mean, double* variance);

template <typename T>
void scale_and_shift(const Sizes& s, const T* x, const T* center, const T* scale, const T* shift,
                     T* y);

template <typename T>
void sums(const Sizes& s, const T* dy, const T* x, const T* center, double* total, double* dot);

template <typename T>
void input_gradient(const Sizes& s, const T* dy, const T* x, const T* center, const T* scale,
                    const T* slope, const T* level, T* dx);

void batch_moments(const Sizes& s, const double* moments, double* batch);

template <typename T>
void mixture(const Sizes& s, const T* center, const double* moments, const double* batch,
             const T* weight, const T* bias, const T* mean_logits, const T* var_logits, T* scale,
             T* shift, double* offset, double* rstd);

template <typename T>
void mixture_gradient(const Sizes& s, const double* total, const double* dot, const double* offset,
                      const double* rstd, const double* moments, const double* batch,
                      const T* weight, const T* mean_logits, const T* var_logits, double* dweight,
                      double* dbias, double* dlogits, double* dinstance, double* dbatch);

template <typename T>
void slope_and_level(const Sizes& s, const double* dinstance, const double* dbatch,
                     const T* center, const double* moments, const double* batch, T* slope,
                     T* level);
