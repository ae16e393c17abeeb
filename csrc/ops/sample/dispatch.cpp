// Filters and draw, shared by all levels: after the passes over a whole row they touch few tokens.
#include <algorithm>
#include <atomic>
#include <ranges>
#include <vector>

#include "core/levels.h"
#include "core/parallel.h"
#include "core/random.h"
#include "ops/sample/sample.h"

namespace pyllm::sample {

PYLLM_DECLARE_PORTABLE(Kernels<float>, kernels);

namespace {

using Ids = std::vector<int64_t>;

// One row: its logits and exp((logit - largest) / temperature).
template <class W>
struct Row {
  std::vector<W> values, weights;

  double weight(int64_t id) const { return static_cast<double>(weights[static_cast<size_t>(id)]); }
  // Likelier first; ties by id.
  bool ranks_before(int64_t a, int64_t b) const {
    const W first = values[static_cast<size_t>(a)], second = values[static_cast<size_t>(b)];
    return first > second || (first == second && a < b);
  }
  // Eight chains, because one chain of additions would wait for each.
  double total() const {
    double sums[8] = {};
    const size_t whole = weights.size() / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
      for (size_t chain = 0; chain < 8; ++chain) sums[chain] += static_cast<double>(weights[i + chain]);
    }
    for (size_t i = whole; i < weights.size(); ++i) sums[0] += static_cast<double>(weights[i]);
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  }
};

template <class W>
Ids largest(const Row<W>& row, int64_t vocab, int64_t top_k) {
  Ids ids(static_cast<size_t>(top_k));
  const auto all = std::views::iota(int64_t{0}, vocab);
  std::ranges::partial_sort_copy(all, ids, [&](int64_t a, int64_t b) { return row.ranks_before(a, b); });
  return ids;
}

// A superset of the nucleus, ranked. Tokens lighter than (1 - top_p) total / vocab together weigh less than
// (1 - top_p) total, so the heavier ones alone reach top_p: sorting the rest would be wasted.
template <class W>
Ids nucleus_candidates(const Row<W>& row, int64_t vocab, double top_p, double total) {
  const double threshold = (1 - top_p) * total / static_cast<double>(vocab) * (1 - 1e-9);
  Ids ids;
  for (int64_t id = 0; id < vocab; ++id) {
    if (row.weight(id) >= threshold) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return row.ranks_before(a, b); });
  return ids;
}

// Drops from ranked ids what follows once the sum has reached top_p of the total.
template <class W>
void cut_nucleus(const Row<W>& row, double top_p, double total, Ids& ids) {
  double before = 0;
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    if (rank > 0 && before >= top_p * total) {
      ids.resize(rank);
      return;
    }
    before += row.weight(ids[rank]);
  }
}

template <class W>
double sum_of(const Row<W>& row, const Ids& ids) {
  double total = 0;
  for (const int64_t id : ids) total += row.weight(id);
  return total;
}

// What the filters keep, ascending.
template <class W>
Ids keep(const Row<W>& row, const Sample& s) {
  const bool limits_k = s.top_k > 0 && s.top_k < s.vocab;
  const double whole = limits_k || s.top_p >= 1 ? 0 : row.total();
  Ids ids;
  if (limits_k) {
    ids = largest(row, s.vocab, s.top_k);
  } else if (s.top_p < 1) {
    ids = nucleus_candidates(row, s.vocab, s.top_p, whole);
  } else {
    for (int64_t id = 0; id < s.vocab; ++id) {
      if (row.weight(id) >= s.min_p) ids.push_back(id);
    }
    return ids;
  }
  if (s.top_p < 1) cut_nucleus(row, s.top_p, limits_k ? sum_of(row, ids) : whole, ids);
  std::erase_if(ids, [&](int64_t id) { return row.weight(id) < s.min_p; });
  std::sort(ids.begin(), ids.end());
  return ids;
}

// The first 53 bits of the block, in [0, 1).
double uniform(int64_t seed, int64_t position) {
  const PhiloxBlock block = philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(position), 0);
  return static_cast<double>((uint64_t{block[1]} << 32 | block[0]) >> 11) * 0x1p-53;
}

// Ids ascend; total is the sum of their weights.
template <class W, class Range>
int64_t draw(const Row<W>& row, const Range& ids, double total, double u) {
  double sum = 0;
  int64_t last = 0;
  for (const int64_t id : ids) {
    sum += row.weight(id);
    if (sum > u * total) return id;
    // Rounding can leave u * total at the sum of all.
    if (row.weight(id) > 0) last = id;
  }
  return last;
}

// The token of one row, or -1 if the row is bad.
template <class W>
int64_t choose(const Sample& s, const Kernels<W>& kernels, int64_t number, Row<W>& row) {
  const char* logits = static_cast<const char*>(s.logits) + number * s.vocab * size_of(s.dtype);
  kernels.widen(s.dtype, logits, s.vocab, row.values.data());
  const int64_t best = kernels.first_largest(row.values.data(), s.vocab);
  if (best < 0 || s.temperature == 0) return best;
  kernels.weigh(row.values.data(), s.vocab, row.values[static_cast<size_t>(best)], s.temperature,
                row.weights.data());
  const double u = uniform(s.seed[number], s.position[number]);
  const bool filters = (s.top_k > 0 && s.top_k < s.vocab) || s.top_p < 1 || s.min_p > 0;
  if (!filters) return draw(row, std::views::iota(int64_t{0}, s.vocab), row.total(), u);
  const Ids ids = keep(row, s);
  return draw(row, ids, sum_of(row, ids), u);
}

template <class W>
int64_t run(const Sample& s, const Kernels<W>& kernels) {
  std::atomic<int64_t> first_bad{s.rows};
  parallel_for(0, s.rows, 1, [&](int64_t begin, int64_t end) {
    const size_t vocab = static_cast<size_t>(s.vocab);
    Row<W> row{std::vector<W>(vocab), std::vector<W>(s.temperature == 0 ? 0 : vocab)};
    for (int64_t number = begin; number < end; ++number) {
      const int64_t token = choose(s, kernels, number, row);
      if (token >= 0) {
        s.token[number] = token;
        continue;
      }
      int64_t seen = first_bad.load();
      while (number < seen && !first_bad.compare_exchange_weak(seen, number)) continue;
    }
  });
  return first_bad < s.rows ? first_bad.load() : -1;
}

}  // namespace

int64_t sample(const Sample& s) {
  static constexpr Levels<Kernels<float>> kLevels = {.scalar = &kernels_scalar,
                                                     PYLLM_PORTABLE_LEVELS(kernels)};
  return s.dtype == DType::f64 ? run(s, kernels_double) : run(s, kLevels.active());
}

}  // namespace pyllm::sample
