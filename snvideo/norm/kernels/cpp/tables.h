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

bool has(const Sizes& s, int part) { return s.parts >> part & 1; }

// Ratios of all parts from the logits of those that are mixed; that of the others is zero.
template <typename T>
void mixture_ratios(const Sizes& s, const T* logits, double* ratios) {
    double total = 0, highest = -INFINITY;
    const T* at = logits;
    for (int k = 0; k < PARTS; k++)
        if (has(s, k)) highest = std::max<double>(highest, *at++);
    at = logits;
    for (int k = 0; k < PARTS; k++) {
        ratios[k] = 0;
        if (has(s, k)) ratios[k] = s.l1 ? std::abs(*at++) : std::exp(*at++ - highest);
        total += ratios[k];
    }
    for (int k = 0; k < PARTS; k++) ratios[k] /= total;
}

template <typename T>
void logits_gradient(const Sizes& s, const T* logits, const double* ratios,
                     const double* dratios, double* dlogits) {
    double along = 0, total = 0;
    for (int k = 0; k < PARTS; k++) along += ratios[k] * dratios[k];
    for (int k = 0, at = 0; k < PARTS; k++)
        if (has(s, k)) total += std::abs(logits[at++]);
    for (int k = 0, at = 0; k < PARTS; k++)
        if (has(s, k)) {
            const double each = s.l1 ? (logits[at] < 0 ? -1 : 1) / total : ratios[k];
            dlogits[at++] = each * (dratios[k] - along);
        }
}

// Mean and variance over some channels of one sample.
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

// Running statistics, as `torch.lerp` to the mean over the groups.
template <typename T>
WIDEST void update_running(const Sizes& s, const double* batch, T* mean, T* variance) {
    const double values = double(s.n / s.groups * s.l);
    const double factor = s.unbiased ? values / (values - 1) : 1;
    const T weight = T(s.momentum);
    const auto move = [=](T from, double to) {
        const T way = T(to) - from;
        return std::abs(weight) < T(0.5) ? std::fma(weight, way, from)
                                         : std::fma(weight - 1, way, T(to));
    };
    for (int64_t j = 0; j < s.c; j++) {
        double m = 0, v = 0;
        for (int64_t k = 0; k < s.groups; k++) {
            m += batch[k * s.c + j];
            v += batch[(s.groups + k) * s.c + j];
        }
        mean[j] = move(mean[j], m / s.groups);
        variance[j] = move(variance[j], v / s.groups * factor);
    }
}

template <typename T>
WIDEST void mixture(const Sizes& s, const T* center, const double* moments, const double* batch,
                    const T* weight, const T* bias, const T* mean_logits, const T* var_logits,
                    T* __restrict scale, T* __restrict shift, double* __restrict offset,
                    double* __restrict rstd) {
    double w[PARTS], u[PARTS];
    mixture_ratios(s, mean_logits, w);
    mixture_ratios(s, var_logits, u);
    const int64_t width = s.c / s.channel_groups;
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t at = i * s.c;
        const double *mean = moments + at, *variance = mean + size(s);
        const Pair layer = has(s, LAYER) ? layer_moments(mean, variance, s.c) : Pair{0, 0};
        // Without a batch part its weight is zero, and any table does.
        const double* m_bn = batch ? batch + group(s, i) * s.c : mean;
        const double* v_bn = batch ? m_bn + s.groups * s.c : variance;
        for (int64_t begin = 0; begin < s.c; begin += width) {
            const Pair own = has(s, GROUP) ? layer_moments(mean + begin, variance + begin, width)
                                           : Pair{0, 0};
            const double m_joint = w[GROUP] * own.first + w[LAYER] * layer.first;
            const double v_joint = u[GROUP] * own.second + u[LAYER] * layer.second + s.eps;
            for (int64_t j = begin; j < begin + width; j++) {
                const double m = w[INSTANCE] * mean[j] + m_joint + w[BATCH] * m_bn[j];
                const double v = u[INSTANCE] * variance[j] + v_joint + u[BATCH] * v_bn[j];
                const double one = 1 / std::sqrt(v), off = m - center[at + j];
                const double gain = weight ? one * weight[j] : one;
                offset[at + j] = off;
                rstd[at + j] = one;
                scale[at + j] = T(gain);
                shift[at + j] = T((bias ? bias[j] : T(0)) - off * gain);
            }
        }
    }
}

// Joint moments of some channels, the sums of the gradients of the channels' mixed moments, and what
// each channel's moments get of them (its mean by its distance from the joint mean besides).
struct Joint {
    Pair moments, sums;
    double to_mean, to_variance;
};

INLINE Joint joint_gradient(const double* mean, const double* variance, const double* dm,
                            const double* dv, int64_t c, double of_mean, double of_variance) {
    const Pair sums = row_sums_of<double>(c, [=](int64_t j) { return dm[j]; },
                                          [=](int64_t j) { return dv[j]; });
    return {layer_moments(mean, variance, c), sums, of_mean * sums.first / c,
            of_variance * sums.second / c};
}

template <typename T>
WIDEST void mixture_gradient(const Sizes& s, const double* total, const double* dot,
                             const double* offset, const double* rstd, const double* moments,
                             const double* batch, const T* weight, const T* mean_logits,
                             const T* var_logits, double* __restrict dweight,
                             double* __restrict dbias, double* __restrict dlogits,
                             double* __restrict dinstance, double* __restrict dbatch) {
    double w[PARTS], u[PARTS], dw[PARTS] = {}, du[PARTS] = {};
    mixture_ratios(s, mean_logits, w);
    mixture_ratios(s, var_logits, u);
    std::fill_n(dweight, s.c, 0.0);
    std::fill_n(dbias, s.c, 0.0);
    if (batch) std::fill_n(dbatch, 2 * s.groups * s.c, 0.0);
    const int64_t width = s.c / s.channel_groups;
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
        dw[INSTANCE] += own.first;
        du[INSTANCE] += own.second;
        Joint layer{};
        if (has(s, LAYER))
            layer = joint_gradient(mean, variance, dm, dv, s.c, w[LAYER], u[LAYER]);
        dw[LAYER] += layer.sums.first * layer.moments.first;
        du[LAYER] += layer.sums.second * layer.moments.second;
        if (batch) {
            const int64_t of_group = group(s, i) * s.c;
            double *__restrict to_m = dbatch + of_group, *__restrict to_v = to_m + s.groups * s.c;
            for (int64_t j = 0; j < s.c; j++) {
                to_m[j] += dm[j];
                to_v[j] += dv[j];
            }
        }
        for (int64_t begin = 0; begin < s.c; begin += width) {
            Joint own_group{};
            if (has(s, GROUP))
                own_group = joint_gradient(mean + begin, variance + begin, dm + begin, dv + begin,
                                           width, w[GROUP], u[GROUP]);
            dw[GROUP] += own_group.sums.first * own_group.moments.first;
            du[GROUP] += own_group.sums.second * own_group.moments.second;
            const double to_m = layer.to_mean + own_group.to_mean;
            const double to_v = layer.to_variance + own_group.to_variance;
            const double m_layer = layer.moments.first, m_group = own_group.moments.first;
            for (int64_t j = begin; j < begin + width; j++) {
                dm[j] = dm[j] * w[INSTANCE] + to_m + 2 * layer.to_variance * (mean[j] - m_layer) +
                        2 * own_group.to_variance * (mean[j] - m_group);
                dv[j] = dv[j] * u[INSTANCE] + to_v;
            }
        }
    }
    if (batch) {
        const int64_t size = s.groups * s.c;
        const Pair sums =
            row_sums_of<double>(size, [=](int64_t j) { return dbatch[j] * batch[j]; },
                                [=](int64_t j) { return dbatch[size + j] * batch[size + j]; });
        dw[BATCH] = sums.first;
        du[BATCH] = sums.second;
        for (int64_t j = 0; j < size; j++) dbatch[j] *= w[BATCH];
        for (int64_t j = size; j < 2 * size; j++) dbatch[j] *= u[BATCH];
    }
    logits_gradient(s, mean_logits, w, dw, dlogits);
    logits_gradient(s, var_logits, u, du, dlogits + __builtin_popcountll(s.parts));
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
