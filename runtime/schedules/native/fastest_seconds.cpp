#include <map>
#include <tuple>

#include "fastest.h"
#include "repetitions.h"

namespace metagrad {
namespace {

// Adds up what the segments of a tree take. Segments of the same length with as many slots, run as
// often, are the same: there are few kinds.
class Sum {
 public:
  Sum(const Decisions &decisions, const Weights &weights)
      : decisions_(decisions), weights_(weights) {}

  double training(int64_t n, int64_t s) {
    double total = 0;
    while (n > 0) {
      const int64_t part = decisions_.first_part_training(n, s);
      if (part == 0) return total + training_leaf_seconds(n, s, weights_);
      total += static_cast<double>(part) * weights_.advance + segment(part, s, 1);
      n -= part;
      s -= 1;
    }
    return total;
  }

 private:
  double segment(int64_t n, int64_t s, int64_t again) {
    if (n == 1) return 0;
    const auto key = std::make_tuple(n, s, again);
    if (const auto known = known_.find(key); known != known_.end()) return known->second;
    const double total = s == 1 ? last_slot(n, again) : parts(n, s, again);
    known_.emplace(key, total);
    return total;
  }

  double parts(int64_t n, int64_t s, int64_t again) {
    double total = 0;
    while (n > 1) {
      const int64_t part = decisions_.first_part(n, s, again);
      if (part == 0) return total + leaf_seconds(n, s, weights_);
      total += static_cast<double>(part) * weights_.advance + segment(part, s, again + 1);
      n -= part;
      s -= 1;
    }
    return total;
  }

  // With one slot the second part is one step, and the first is reversed with that slot too. Not
  // by recursion: it would be as deep as the run is long.
  double last_slot(int64_t n, int64_t again) {
    double total = 0;
    for (; n > 1; --n, ++again) {
      if (decisions_.first_part(n, 1, again) == 0) return total + leaf_seconds(n, 1, weights_);
      total += static_cast<double>(n - 1) * weights_.advance;
    }
    return total;
  }

  const Decisions &decisions_;
  const Weights weights_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, double> known_;
};

}  // namespace

double leaf_seconds(int64_t n, int64_t s, const Weights &weights) {
  const double kept = static_cast<double>(n - 1);
  return kept * weights.kept + (fewest_advances(n, s) - kept) * weights.update;
}

double training_leaf_seconds(int64_t n, int64_t s, const Weights &weights) {
  const double kept = static_cast<double>(n);
  return kept * weights.kept + (fewest_advances(n + 1, s) - kept) * weights.update;
}

std::unique_ptr<Decisions> decisions(int64_t steps, SlotCounts slots, const Weights &weights) {
  if (is_cheap(steps, slots)) return std::make_unique<ExactDecisions>(steps, slots, weights);
  if (is_one_leaf(steps, slots, weights)) return std::make_unique<NoDecisions>();
  return std::make_unique<PricedDecisions>(steps, slots, weights);
}

double seconds_of(const Decisions &decisions, int64_t steps, int64_t state_slots,
                  const Weights &weights) {
  return Sum(decisions, weights).training(steps, state_slots);
}

double tree_seconds(int64_t steps, SlotCounts slots, const Weights &weights) {
  if (is_cheap(steps, slots)) return ExactDecisions(steps, slots, weights).seconds().back();
  // Each step's state is saved about once.
  return static_cast<double>(steps) * weights.save +
         seconds_of(*decisions(steps, slots, weights), steps, slots.states, weights);
}

}  // namespace metagrad
