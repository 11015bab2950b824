// Switchable Normalization on a CPU: the arithmetic on tables between the passes over x.
//
// The functions of `snvideo/norm/kernels/tables.py`, which explains them. As separate operations of
// torch they would take longer than the passes over a small x.

#pragma once

#include <cmath>

#include "common.h"

namespace {

int64_t size(const Sizes& s) { return s.n * s.c; }
int64_t group(const Sizes& s, int64_t sample) { return sample * s.groups / s.n; }

template <typename T>
void softmax(const T* logits, int64_t count, double* ratios) {
    double total = 0;
    const double highest = *std::max_element(logits, logits + count);
    for (int64_t k = 0; k < count; k++) total += ratios[k] = std::exp(logits[k] - highest);
    for (int64_t k = 0; k < count; k++) ratios[k] /= total;
}

// Mean and variance over the channels of one sample.
INLINE Pair layer_moments(const double* mean, const double* variance, int64_t c) {
    const auto sums = row_sums_of<double>(c, [=](int64_t j) { return mean[j]; },
                                          [=](int64_t j) { return variance[j]; });
    const double joint = sums.first / c;
    const auto between = row_sums_of<double>(
        c, [=](int64_t j) { return (mean[j] - joint) * (mean[j] - joint); },
        [](int64_t) { return 0.0; });
    return {joint, (sums.second + between.first) / c};
}

WIDEST void batch_moments(const Sizes& s, const double* moments, double* batch) {
    const int64_t samples = s.n / s.groups;
    std::fill_n(batch, 2 * s.groups * s.c, 0.0);
    for (int64_t group = 0; group < s.groups; group++) {
        const double *means = moments + group * samples * s.c, *variances = means + size(s);
        double *__restrict m = batch + group * s.c, *__restrict v = m + s.groups * s.c;
        for (int64_t i = 0; i < samples; i++)
            for (int64_t j = 0; j < s.c; j++) m[j] += means[i * s.c + j] / samples;
        for (int64_t i = 0; i < samples; i++)
            for (int64_t j = 0; j < s.c; j++) {
                const double between = means[i * s.c + j] - m[j];
                v[j] += (variances[i * s.c + j] + between * between) / samples;
            }
    }
}

template <typename T>
WIDEST void mixture(const Sizes& s, const T* center, const double* moments, const double* batch,
                    const T* weight, const T* bias, const T* mean_logits, const T* var_logits,
                    T* __restrict scale, T* __restrict shift, double* __restrict offset,
                    double* __restrict rstd) {
    double w[3] = {}, u[3] = {};
    softmax(mean_logits, s.logits, w);
    softmax(var_logits, s.logits, u);
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t at = i * s.c;
        const double *mean = moments + at, *variance = mean + size(s);
        const Pair layer = layer_moments(mean, variance, s.c);
        const double m_ln = w[1] * layer.first, v_ln = u[1] * layer.second + s.eps;
        // Without a batch part its weight is zero, and any table does.
        const double* m_bn = batch ? batch + group(s, i) * s.c : mean;
        const double* v_bn = batch ? m_bn + s.groups * s.c : variance;
        for (int64_t j = 0; j < s.c; j++) {
            const double m = w[0] * mean[j] + m_ln + w[2] * m_bn[j];
            const double v = u[0] * variance[j] + v_ln + u[2] * v_bn[j];
            const double one = 1 / std::sqrt(v), off = m - center[at + j];
            const double gain = weight ? one * weight[j] : one;
            offset[at + j] = off;
            rstd[at + j] = one;
            scale[at + j] = T(gain);
            shift[at + j] = T((bias ? bias[j] : T(0)) - off * gain);
        }
    }
}

template <typename T>
WIDEST void mixture_gradient(const Sizes& s, const double* total, const double* dot,
                             const double* offset, const double* rstd, const double* moments,
                             const double* batch, const T* weight, const T* mean_logits,
                             const T* var_logits, double* __restrict dweight,
                             double* __restrict dbias, double* __restrict dlogits,
                             double* __restrict dinstance, double* __restrict dbatch) {
    double w[3] = {}, u[3] = {}, dw[3] = {}, du[3] = {};
    softmax(mean_logits, s.logits, w);
    softmax(var_logits, s.logits, u);
    std::fill_n(dweight, s.c, 0.0);
    std::fill_n(dbias, s.c, 0.0);
    if (batch) std::fill_n(dbatch, 2 * s.groups * s.c, 0.0);
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t at = i * s.c;
        const double *mean = moments + at, *variance = mean + size(s);
        double *__restrict dm = dinstance + at, *__restrict dv = dm + size(s);
        for (int64_t j = 0; j < s.c; j++) {
            const double normed = (dot[at + j] - offset[at + j] * total[at + j]) * rstd[at + j];
            const double gain = weight ? rstd[at + j] * weight[j] : rstd[at + j];
            dm[j] = -total[at + j] * gain;
            dv[j] = -0.5 * normed * gain * rstd[at + j];
            dweight[j] += normed;
            dbias[j] += total[at + j];
        }
        const Pair own = row_sums_of<double>(s.c, [=](int64_t j) { return dm[j] * mean[j]; },
                                             [=](int64_t j) { return dv[j] * variance[j]; });
        const Pair sums = row_sums_of<double>(s.c, [=](int64_t j) { return dm[j]; },
                                              [=](int64_t j) { return dv[j]; });
        const Pair layer = layer_moments(mean, variance, s.c);
        dw[0] += own.first;
        du[0] += own.second;
        dw[1] += sums.first * layer.first;
        du[1] += sums.second * layer.second;
        if (batch) {
            const int64_t of_group = group(s, i) * s.c;
            double *__restrict to_m = dbatch + of_group, *__restrict to_v = to_m + s.groups * s.c;
            for (int64_t j = 0; j < s.c; j++) {
                to_m[j] += dm[j];
                to_v[j] += dv[j];
            }
        }
        const double to_m = w[1] * sums.first / s.c, to_v = u[1] * sums.second / s.c;
        for (int64_t j = 0; j < s.c; j++) {
            dm[j] = dm[j] * w[0] + to_m + 2 * to_v * (mean[j] - layer.first);
            dv[j] = dv[j] * u[0] + to_v;
        }
    }
    if (batch) {
        const int64_t size = s.groups * s.c;
        const Pair sums =
            row_sums_of<double>(size, [=](int64_t j) { return dbatch[j] * batch[j]; },
                                [=](int64_t j) { return dbatch[size + j] * batch[size + j]; });
        dw[2] = sums.first;
        du[2] = sums.second;
        for (int64_t j = 0; j < size; j++) dbatch[j] *= w[2];
        for (int64_t j = size; j < 2 * size; j++) dbatch[j] *= u[2];
    }
    double along_w = 0, along_u = 0;
    for (int64_t k = 0; k < s.logits; k++) along_w += w[k] * dw[k];
    for (int64_t k = 0; k < s.logits; k++) along_u += u[k] * du[k];
    for (int64_t k = 0; k < s.logits; k++) dlogits[k] = w[k] * (dw[k] - along_w);
    for (int64_t k = 0; k < s.logits; k++) dlogits[s.logits + k] = u[k] * (du[k] - along_u);
}

template <typename T>
WIDEST void slope_and_level(const Sizes& s, const double* dinstance,
                            const double* dbatch, const T* center, const double* moments,
                            const double* batch, T* __restrict slope, T* __restrict level) {
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t at = i * s.c, of_group = group(s, i) * s.c, other = s.groups * s.c;
        const double *mean = moments + at, *dm = dinstance + at, *dv = dm + size(s);
        for (int64_t j = 0; j < s.c; j++) {
            double to_mean = dm[j], to_variance = dv[j];
            if (dbatch) {
                const double* to = dbatch + of_group + j;
                to_mean += to[0] + 2 * to[other] * (mean[j] - batch[of_group + j]);
                to_variance += to[other];
            }
            const double inclined = to_variance * 2 / s.l;
            slope[at + j] = T(inclined);
            level[at + j] = T(to_mean / s.l - inclined * (mean[j] - center[at + j]));
        }
    }
}

}  // namespace
