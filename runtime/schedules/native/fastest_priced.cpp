#include <algorithm>
#include <cmath>

#include "fastest.h"
#include "repetitions.h"

namespace metagrad {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;  // lengths are cut off here, so that they can be added
constexpr int kHalvings = 60;

// How often a step may be made again from kept gradients if a step is worth `worth` seconds.
double repetitions(double worth, const Weights &w) {
  if (worth < w.kept) return 0;
  return w.update > 0 ? std::floor((worth - w.kept) / w.update) + 1 : static_cast<double>(kMany);
}

}  // namespace

PricedDecisions::PricedDecisions(int64_t steps, SlotCounts slots, const Weights &weights,
                                 double precision, double enough)
    : steps_(steps), slots_(slots), weights_(weights), bounds_(slots.states + 1, 0) {
  grow(low_, 0);
  const double high = weights.advance + weights.kept + weights.update;
  for (grow(high_, high); high_.training.back().steps < steps;) {
    std::swap(low_, high_);
    if (bound() > enough) return;
    grow(high_, 2 * low_.price);
  }
  Tree middle;
  for (int i = 0;
       i < kHalvings && bound() <= enough && high_.price - low_.price > precision * high_.price;
       ++i) {
    grow(middle, 0.5 * (low_.price + high_.price));
    std::swap(middle, middle.training.back().steps < steps ? low_ : high_);
  }
}

// The best leaf. A segment has at least one step, at whatever price.
PricedDecisions::Node PricedDecisions::leaf(double price, int64_t s, int64_t again) const {
  const double ahead = static_cast<double>(again) * weights_.advance;
  const int64_t n =
      s == 0 ? 1 : longest(s, repetitions(price - ahead, weights_), slots_.gradients + 1);
  const double length = static_cast<double>(n), made_again = n == 1 ? 0 : fewest_advances(n, s);
  const double updates = n == 1 ? 0 : made_again - (length - 1);
  return {length * (ahead - price) + (length - 1) * weights_.kept + updates * weights_.update, n,
          false};
}

PricedDecisions::Node PricedDecisions::node(const Tree &tree, int64_t s, int64_t again) const {
  if (s == 0 || again > tree.rows) return leaf(tree.price, s, again);
  return tree.nodes[(again - 1) * (slots_.states + 1) + s];
}

void PricedDecisions::grow(Tree &tree, double price) {
  const int64_t width = slots_.states + 1;
  tree.price = price;
  // Steps that are run again more often than this cost more than the price.
  tree.rows = weights_.advance > 0
                  ? std::min<int64_t>(steps_, static_cast<int64_t>(price / weights_.advance))
                  : 1;
  tree.nodes.resize(tree.rows * width);
  const auto better = [](const Node &one, const Node &left, const Node &right) {
    const double split = left.value + right.value;
    return split < one.value ? Node{split, std::min(kMany, left.steps + right.steps), true} : one;
  };
  for (int64_t again = tree.rows; again >= 1; --again)
    for (int64_t s = 0; s < width; ++s) {
      Node &here = tree.nodes[(again - 1) * width + s];
      here = leaf(price, s, again);
      if (s > 0) here = better(here, node(tree, s, again + 1), node(tree, s - 1, again));
    }
  tree.training.assign(width, {0, 0, false});
  for (int64_t s = 1; s < width; ++s) {
    Node &here = tree.training[s];
    const int64_t n = longest(s, repetitions(price, weights_), slots_.gradients + 1) - 1;
    if (n > 0) {
      const double length = static_cast<double>(n);
      here = {
          length * (weights_.kept - price) + (fewest_advances(n + 1, s) - length) * weights_.update,
          n, false};
    }
    here = better(here, node(tree, s, 1), tree.training[s - 1]);
    bounds_[s] = std::max(bounds_[s], here.value + price * static_cast<double>(steps_));
  }
}

namespace {

// The first part of a split of n steps, if the best right parts at the prices below and above have
// `low` and `high` steps, and the left one at the price below has `left`.
int64_t first_part_between(int64_t n, int64_t left, int64_t least, int64_t low, int64_t high) {
  const int64_t right = std::clamp(n - left, std::min(low, high), std::max(low, high));
  return n - std::clamp<int64_t>(right, least, n - 1);
}

}  // namespace

int64_t PricedDecisions::first_part(int64_t n, int64_t s, int64_t again) const {
  if (n == 1) return 0;
  const Node low = node(low_, s, again), high = node(high_, s, again);
  const bool leaf = !high.split || (!low.split && n <= low.steps);
  if (leaf && n <= slots_.gradients + 1) return 0;
  if (s == 1) return n - 1;
  return first_part_between(n, node(low_, s, again + 1).steps, 1, node(low_, s - 1, again).steps,
                            node(high_, s - 1, again).steps);
}

int64_t PricedDecisions::first_part_training(int64_t n, int64_t s) const {
  const Node low = low_.training[s], high = high_.training[s];
  const bool leaf = !high.split || (!low.split && n <= low.steps);
  if (leaf && n <= slots_.gradients) return 0;
  if (s == 1) return n;
  return first_part_between(n, node(low_, s, 1).steps, 0, low_.training[s - 1].steps,
                            high_.training[s - 1].steps);
}

}  // namespace metagrad
