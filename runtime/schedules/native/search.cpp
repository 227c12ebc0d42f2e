#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <queue>
#include <set>
#include <tuple>

namespace metagrad {
namespace {

constexpr int64_t kWork = 200'000;   // state slots times numbers of gradient slots that are tried
constexpr double kPrecision = 1e-4;  // of prices, where only the bound is wanted
constexpr int64_t kMostStates = 20'000;  // that are tried, unless all gradients are kept
constexpr int kTries = 24;               // plans that are made to see what they really take

constexpr double kNever = std::numeric_limits<double>::infinity();

class Search {
 public:
  Search(int64_t steps, const Weights &weights, double rest, const Budget &budget)
      : steps_(steps), weights_(weights), rest_(rest), budget_(budget) {}

  SlotCounts smallest(double slack) {
    const int64_t most = most_gradients();
    const int64_t count = number_of_tries();
    std::set<int64_t> gradients = spread(0, most, count);
    refine(gradients, [&](int64_t g) { return bound(g); });
    const double total = rest_ + fastest(gradients);
    // Bounds are taken against a bit less, so that the plan made is within the slack.
    return smallest_within((1 + 0.9 * slack) * total - rest_, (1 + slack) * total - rest_,
                           gradients);
  }

 private:
  // How many numbers of gradient slots are looked at in the first round.
  int64_t number_of_tries() const {
    const int64_t states = most_states(0);
    const int64_t each = is_cheap(steps_, {states, 0}) ? steps_ * steps_ * states / 200 : states;
    return std::clamp<int64_t>(kWork / std::max<int64_t>(1, each), 8, 160);
  }

  int64_t most_gradients() const {
    if (!budget_.keep) return 0;
    if (budget_.gradient_bytes == 0) return steps_;
    return std::min(steps_, (budget_.bytes - budget_.state_bytes) / budget_.gradient_bytes);
  }

  int64_t most_states(int64_t gradients) const {
    const int64_t most = gradients == steps_ ? steps_ : std::min(steps_, kMostStates);
    if (budget_.state_bytes == 0) return most;
    const int64_t rest = budget_.bytes - gradients * budget_.gradient_bytes;
    return std::min(most, rest / budget_.state_bytes);
  }

  double bytes(SlotCounts slots) const {
    return static_cast<double>(slots.states) * static_cast<double>(budget_.state_bytes) +
           static_cast<double>(slots.gradients) * static_cast<double>(budget_.gradient_bytes);
  }

  // All of first .. last if these are few, else about `count` of them at growing distances.
  static std::set<int64_t> spread(int64_t first, int64_t last, int64_t count) {
    std::set<int64_t> values{first, last};
    const double ratio =
        std::pow(static_cast<double>(last - first + 1), 1.0 / static_cast<double>(count));
    for (double at = 1; at <= static_cast<double>(last - first); at = std::max(at + 1, at * ratio))
      values.insert(first + static_cast<int64_t>(at));
    return values;
  }

  // Looks closer around the value with the lowest cost, twice.
  template <typename Cost>
  void refine(std::set<int64_t> &values, const Cost &cost) {
    for (int round = 0; round < 2; ++round) {
      auto best = std::min_element(values.begin(), values.end(),
                                   [&](int64_t a, int64_t b) { return cost(a) < cost(b); });
      const int64_t low = best == values.begin() ? *best : *std::prev(best);
      const int64_t high = std::next(best) == values.end() ? *best : *std::next(best);
      const int64_t stride = std::max<int64_t>(1, (high - low) / 8);
      for (int64_t at = low; at < high; at += stride) values.insert(at);
    }
  }

  // Lower bounds for 0, 1, .. state slots, the last of them the best one.
  std::vector<double> &bounds(int64_t gradients) {
    auto [entry, fresh] = bounds_.try_emplace(gradients);
    if (fresh) {
      const int64_t states = most_states(gradients);
      entry->second = priced_bounds(states, gradients, 2 * lowest_);
      lowest_ = std::min(lowest_, rest_ + entry->second.back());
    }
    return entry->second;
  }

  std::vector<double> priced_bounds(int64_t states, int64_t gradients, double enough) const {
    if (is_cheap(steps_, {states, gradients}))
      return ExactDecisions(steps_, {states, gradients}, weights_).seconds();
    std::vector<double> all(states + 1, kNever);
    if (is_one_leaf(steps_, {states, gradients}, weights_))
      for (int64_t s = 1; s <= states; ++s) all[s] = training_leaf_seconds(steps_, s, weights_);
    else
      all = PricedDecisions(steps_, {states, gradients}, weights_, kPrecision, enough).bounds();
    // As in `tree_seconds`.
    for (double &seconds : all) seconds += static_cast<double>(steps_) * weights_.save;
    return all;
  }

  double bound(int64_t gradients) { return bounds(gradients).back(); }

  // What the plan really takes.
  double seconds(int64_t gradients, int64_t states) {
    auto [entry, fresh] = seconds_of_.try_emplace({gradients, states}, 0);
    if (fresh)
      entry->second = is_cheap(steps_, {most_states(gradients), gradients})
                          ? bounds(gradients)[states]
                          : tree_seconds(steps_, {states, gradients}, weights_);
    return entry->second;
  }

  double fastest(const std::set<int64_t> &gradients) {
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t g : gradients) order.emplace_back(bound(g), g);
    std::sort(order.begin(), order.end());
    double best = seconds(order[0].second, most_states(order[0].second));
    for (size_t i = 1;
         i < order.size() && i < kTries && rest_ + order[i].first < 0.999 * (rest_ + best); ++i)
      best = std::min(best, seconds(order[i].second, most_states(order[i].second)));
    return best;
  }

  // The fewest states whose bound is within the limit, or up to 1 / 256 more. The bounds for fewer
  // slots are rough at first: they are of the prices that are right for all slots. Each round finds
  // those of the number of slots in question.
  int64_t fewest_states(int64_t gradients, double limit) {
    std::vector<double> &known = bounds(gradients);
    if (is_cheap(steps_, {most_states(gradients), gradients}))
      return std::partition_point(known.begin() + 1, known.end() - 1,
                                  [&](double seconds) { return seconds > limit; }) -
             known.begin();
    int64_t low = 0, high = static_cast<int64_t>(known.size()) - 1;  // too few, and enough
    for (int64_t stride = 1; high - low > 1 + high / 256; stride *= 4) {
      const auto within = std::partition_point(known.begin() + low + 1, known.begin() + high,
                                               [&](double bound) { return bound > limit; });
      const int64_t states = std::max(within - known.begin(), std::min(low + stride, high));
      if (states == high) break;
      const auto sharper = priced_bounds(states, gradients, kNever);
      for (int64_t s = low + 1; s <= states; ++s) known[s] = std::max(known[s], sharper[s]);
      if (known[states] > limit) {
        low = states;
      } else {
        high = states;
        stride = 1;
      }
    }
    return high;
  }

  SlotCounts smallest_within(double aim, double limit, std::set<int64_t> gradients) {
    std::map<int64_t, double> sizes;
    double smallest = kNever;
    const auto size = [&](int64_t g) {
      auto [entry, fresh] = sizes.try_emplace(g, kNever);
      if (fresh && bound(g) <= aim && bytes({1, g}) < 1.02 * smallest)
        smallest = std::min(smallest, entry->second = bytes({fewest_states(g, aim), g}));
      return entry->second;
    };
    refine(gradients, size);
    std::priority_queue<std::tuple<double, int64_t, int64_t>,
                        std::vector<std::tuple<double, int64_t, int64_t>>, std::greater<>>
        candidates;
    const auto add = [&](int64_t g, int64_t s) { candidates.emplace(bytes({s, g}), g, s); };
    for (int64_t g : gradients)
      if (size(g) < 1.02 * smallest) add(g, fewest_states(g, aim));
    for (int tries = 0; tries < kTries && !candidates.empty(); ++tries) {
      const auto [_, g, s] = candidates.top();
      candidates.pop();
      if (seconds(g, s) <= limit) return {s, g};
      if (s < most_states(g)) add(g, std::min(most_states(g), s + std::max<int64_t>(1, s / 32)));
    }
    // The bound is loose here: the fastest of the plans that were made.
    const auto best =
        std::min_element(seconds_of_.begin(), seconds_of_.end(),
                         [](const auto &a, const auto &b) { return a.second < b.second; });
    return {best->first.second, best->first.first};
  }

  const int64_t steps_;
  const Weights weights_;
  const double rest_;
  const Budget budget_;
  double lowest_ = kNever;  // the lowest bound of all, with the rest
  std::map<int64_t, std::vector<double>> bounds_;
  std::map<std::pair<int64_t, int64_t>, double> seconds_of_;
};

}  // namespace

SlotCounts search(int64_t steps, const Weights &weights, double rest, const Budget &budget,
                  double slack) {
  return Search(steps, weights, rest, budget).smallest(slack);
}

}  // namespace metagrad
