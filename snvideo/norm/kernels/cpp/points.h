// Switchable Normalization on a CPU of x with one position, (N, C) or (N, C, 1, 1).
//
// Instance statistics are then x itself and a variance of zero. Tables of a value per sample and
// channel would be as large as x, so none is stored: a row of x, the channels of one sample, is in
// the caches while it is read for its own statistics and normalized; backward forms the mixture
// again. The batch statistics of a ghost group are the moments of its samples as positions.

#pragma once

#include <vector>

#include "passes.h"
#include "tables.h"

namespace {

// The ghost groups as samples, whose positions are the group's samples.
Sizes groups_as_samples(const Sizes& s) {
    Sizes turned = s;
    turned.n = s.groups;
    turned.l = s.n / s.groups;
    turned.last = true;
    return turned;
}

// Some channels of one sample, and what the mixture makes of their statistics: those that they share
// (of the layer and of their group), and those that each has for itself (of the batch). x - m is a
// mean of the distances from both, which keeps its digits where the mean is large.
template <typename T>
struct Row {
    Pair layer, group;
    T shared_ratio, shared_mean, shared_variance, ratio;
    const T *mean, *variance, *weight, *bias;
    int64_t begin, width;

    T away(T x, int64_t j) const {
        return shared_ratio * (x - shared_mean) + ratio * (x - mean[j]);
    }
    T rstd(int64_t j) const { return 1 / std::sqrt(shared_variance + variance[j]); }
};

template <typename T>
struct PointMixture {
    const Sizes& s;
    Pair *layer, *group;  // moments, of the samples and of their groups of channels
    double w[PARTS], u[PARTS];
    std::vector<T> values;
    T *mean, *variance, *weight, *bias;  // of the batch, (groups, c); (c)

    PointMixture(const Sizes& s, double* moments, const double* batch, const T* gamma,
                 const T* beta, const T* mean_logits, const T* var_logits)
        : s(s), layer(reinterpret_cast<Pair*>(moments)), group(layer + s.n),
          values(2 * (s.groups + 1) * s.c), mean(values.data()),
          variance(mean + s.groups * s.c), weight(variance + s.groups * s.c), bias(weight + s.c) {
        mixture_ratios(s, mean_logits, w);
        mixture_ratios(s, var_logits, u);
        for (int64_t i = 0; i < s.groups * s.c; i++) {
            mean[i] = batch ? T(batch[i]) : T(0);
            variance[i] = T(s.eps + (batch ? u[BATCH] * batch[s.groups * s.c + i] : 0));
        }
        for (int64_t j = 0; j < s.c; j++) {
            weight[j] = gamma ? gamma[j] : T(1);
            bias[j] = beta ? beta[j] : T(0);
        }
    }

    template <typename S>
    void take_moments(int64_t sample, const S* x) const {
        const int64_t width = s.c / s.channel_groups;
        Pair* of_groups = group + sample * s.channel_groups;
        layer[sample] = has(s, LAYER) ? row_pair(x, s.c) : Pair{0, 0};
        for (int64_t k = 0; k < s.channel_groups; k++)
            of_groups[k] = has(s, GROUP) ? row_pair(x + k * width, width) : Pair{0, 0};
    }

    template <typename S>
    static Pair row_pair(const S* x, int64_t c) {
        T center;
        Pair found;
        row_moments(x, c, &center, &found.first, &found.second);
        return found;
    }

    // A task for every group of channels of one sample.
    template <typename Task>
    void for_rows_of(int64_t sample, Task task) const {
        const int64_t width = s.c / s.channel_groups, at = ::group(s, sample) * s.c;
        const Pair& all = layer[sample];
        for (int64_t k = 0; k < s.channel_groups; k++) {
            const Pair& own = group[sample * s.channel_groups + k];
            const double ratio = w[LAYER] + w[GROUP];
            const double joint = w[LAYER] * all.first + w[GROUP] * own.first;
            const double spread = u[LAYER] * all.second + u[GROUP] * own.second;
            const int64_t begin = k * width;
            task(Row<T>{all, own, T(ratio), T(ratio > 0 ? joint / ratio : 0), T(spread),
                        T(w[BATCH]), mean + at + begin, variance + at + begin, weight + begin,
                        bias + begin, begin, width});
        }
    }
};

// Doubles that the moments of a mixture take.
int64_t point_moments(const Sizes& s) { return 2 * s.n * (1 + s.channel_groups); }

template <typename S, typename T = Wide<S>>
WIDEST void point_scale(const S* x, const Row<T>& row, S* __restrict y) {
    const Row<T> own = row;
    for (int64_t j = 0; j < own.width; j++)
        y[j] = own.away(x[j], j) * own.rstd(j) * own.weight[j] + own.bias[j];
}

struct PointSums {
    Pair moments;  // of the gradients of the mixed moments
    Pair away;     // of that of the mean, by the distance of shared and of batch mean from x
};

// Sums over the channels; and of every channel what its row adds to the gradients of weight, bias and
// mixed moments.
template <typename S, typename T = Wide<S>>
WIDEST PointSums point_sums(const S* dy, const S* x, const Row<T>& row, T* __restrict dm,
                            T* __restrict dv, T* __restrict dweight, T* __restrict dbias,
                            T* __restrict to_mean, T* __restrict to_variance) {
    const Row<T> own = row;
    for (int64_t j = 0; j < own.width; j++) {
        const T rstd = own.rstd(j), gain = rstd * own.weight[j];
        const T normed = dy[j] * own.away(x[j], j) * rstd;
        dm[j] = -dy[j] * gain;
        dv[j] = T(-0.5) * normed * gain * rstd;
        dweight[j] += normed;
        dbias[j] += dy[j];
        to_mean[j] += dm[j];
        to_variance[j] += dv[j];
    }
    return {row_sums_of<T>(own.width, [=](int64_t j) { return dm[j]; },
                           [=](int64_t j) { return dv[j]; }),
            row_sums_of<T>(own.width, [=](int64_t j) { return dm[j] * (own.shared_mean - x[j]); },
                           [=](int64_t j) { return dm[j] * (own.mean[j] - x[j]); })};
}

// dx: of y itself and its instance mean, and of the moments of layer, group and batch.
template <typename S, typename T = Wide<S>>
WIDEST void point_gradient(const S* dy, const S* x, const Row<T>& row, T direct, T level,
                           T layer_slope, T group_slope, const T* to_mean, const T* to_variance,
                           S* __restrict dx) {
    const Row<T> own = row;
    const T layer_mean = T(own.layer.first), group_mean = T(own.group.first);
    for (int64_t j = 0; j < own.width; j++)
        dx[j] = dy[j] * (direct * own.rstd(j) * own.weight[j]) + level +
                layer_slope * (x[j] - layer_mean) + group_slope * (x[j] - group_mean) +
                to_mean[j] + to_variance[j] * (x[j] - own.mean[j]);
}

template <typename S, typename T = Wide<S>>
void point_normalized(const PointMixture<T>& of, const S* x, S* y) {
    const Sizes& s = of.s;
#pragma omp parallel for num_threads(threads(s)) schedule(static)
    for (int64_t i = 0; i < s.n; i++) {
        of.take_moments(i, x + i * s.c);
        of.for_rows_of(i, [&](const Row<T>& row) {
            point_scale(x + i * s.c + row.begin, row, y + i * s.c + row.begin);
        });
    }
}

// dweight, dbias, dlogits; and dx, if it is wanted.
template <typename S, typename T = Wide<S>>
void point_gradients(const PointMixture<T>& of, const S* dy, const S* x, const double* batch,
                     const T* mean_logits, const T* var_logits, double* dweight, double* dbias,
                     double* dlogits, S* dx) {
    const Sizes &s = of.s, turned = groups_as_samples(s);
    const Parts parts(turned.n, s.c, turned.l);
    const int64_t of_batch = s.groups * s.c, width = s.c / s.channel_groups;
    struct Found {
        std::vector<double> channels;  // weight, bias, batch mean, batch variance
        double dw[PARTS] = {}, du[PARTS] = {};
    };
    std::vector<Found> found(turned.n * parts.count);
    std::vector<Pair> of_rows(s.n * s.channel_groups), of_samples(s.n);
    for_parts(turned, parts, [&](int64_t part, int64_t, int64_t begin, int64_t rows) {
        Found& to = found[part];
        to.channels.resize(4 * s.c);
        std::vector<T> buffer(6 * s.c);
        T *sums = buffer.data(), *dm = sums + 4 * s.c, *dv = dm + s.c;
        for (int64_t r = 0; r < rows; r++) {
            const int64_t at = begin + r * s.c, sample = at / s.c;
            Pair& all = of_samples[sample];
            of.for_rows_of(sample, [&](const Row<T>& row) {
                T* to_sums = sums + row.begin;
                const PointSums add = point_sums(
                    dy + at + row.begin, x + at + row.begin, row, dm, dv, to_sums, to_sums + s.c,
                    to_sums + 2 * s.c, to_sums + 3 * s.c);
                const double dmean = add.moments.first, dvariance = add.moments.second;
                // Ratios sum to one, so means may be taken by their distance from the instance's.
                to.dw[LAYER] += add.away.first + (row.layer.first - row.shared_mean) * dmean;
                to.dw[GROUP] += add.away.first + (row.group.first - row.shared_mean) * dmean;
                to.dw[BATCH] += add.away.second;
                to.du[LAYER] += row.layer.second * dvariance;
                to.du[GROUP] += row.group.second * dvariance;
                of_rows[sample * s.channel_groups + row.begin / width] = add.moments;
                all.first += dmean;
                all.second += dvariance;
            });
            if ((r + 1) % BLOCK_ROWS == 0 || r + 1 == rows) {
                for (int64_t j = 0; j < 4 * s.c; j++) to.channels[j] += sums[j];
                std::fill_n(sums, 4 * s.c, T(0));
            }
        }
    });

    double dw[PARTS] = {}, du[PARTS] = {};
    std::vector<double> dbatch(2 * of_batch);
    std::fill_n(dweight, s.c, 0.0);
    std::fill_n(dbias, s.c, 0.0);
    for (size_t part = 0; part < found.size(); part++) {
        const double* from = found[part].channels.data();
        double* to = dbatch.data() + int64_t(part) / parts.count * s.c;
        for (int64_t j = 0; j < s.c; j++) {
            dweight[j] += from[j];
            dbias[j] += from[s.c + j];
            to[j] += from[2 * s.c + j];
            to[of_batch + j] += from[3 * s.c + j];
        }
        for (int k = 0; k < PARTS; k++) {
            dw[k] += found[part].dw[k];
            du[k] += found[part].du[k];
        }
    }
    for (int64_t i = of_batch; batch && i < 2 * of_batch; i++) du[BATCH] += dbatch[i] * batch[i];
    logits_gradient(s, mean_logits, of.w, dw, dlogits);
    logits_gradient(s, var_logits, of.u, du, dlogits + __builtin_popcountll(s.parts));
    if (!dx) return;

    // Each sample's share in the gradients of its batch's moments; constants pass nothing on.
    const double share = s.stored ? 0 : double(s.groups) / s.n;
    std::vector<T> to_batch(2 * of_batch);
    T *to_mean = to_batch.data(), *to_variance = to_mean + of_batch;
    for (int64_t i = 0; i < of_batch; i++) {
        to_mean[i] = T(share * of.w[BATCH] * dbatch[i]);
        to_variance[i] = T(2 * share * of.u[BATCH] * dbatch[of_batch + i]);
    }
#pragma omp parallel for num_threads(threads(s)) schedule(static)
    for (int64_t i = 0; i < s.n; i++)
        of.for_rows_of(i, [&](const Row<T>& row) {
            const Pair &all = of_samples[i], &own = of_rows[i * s.channel_groups + row.begin / width];
            const double level = of.w[LAYER] * all.first / s.c + of.w[GROUP] * own.first / width;
            const int64_t at = i * s.c + row.begin, of_group = group(s, i) * s.c + row.begin;
            point_gradient(dy + at, x + at, row, T(1 - of.w[INSTANCE]), T(level),
                           T(2 * of.u[LAYER] * all.second / s.c),
                           T(2 * of.u[GROUP] * own.second / width), to_mean + of_group,
                           to_variance + of_group, dx + at);
        });
}

}  // namespace
