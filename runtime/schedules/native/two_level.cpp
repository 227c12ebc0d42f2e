#include "two_level.h"

#include <algorithm>
#include <limits>

#include "binomial.h"
#include "repetitions.h"

namespace metagrad {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

TwoLevels::TwoLevels(int64_t steps, const Levels &levels)
    : steps_(steps),
      levels_(levels),
      read_(levels.overlap ? std::max(0.0, levels.read - levels.reverse) : levels.read),
      fast_(steps + 2),
      replayed_(steps + 1),
      last_(steps + 1) {
  for (int64_t n = 2; n <= steps + 1; ++n)
    fast_[n] = levels.fast_slots > 0 ? fewest_advances(n, levels.fast_slots) : kNever;
  for (int64_t n = 1; n <= steps; ++n) {
    double best = n == 1 ? 0 : levels.copies ? fast_[n] : kNever;
    for (int64_t j = 1; j < n; ++j) best = std::min(best, replayed_split(n, j, false));
    replayed_[n] = best;
    best = kNever;
    for (int64_t j = 1; j <= n; ++j) best = std::min(best, replayed_split(n, j, true));
    last_[n] = best;
  }
  chain_.push_back(last_);
  for (int64_t m = 1; m <= std::min(levels.slow_slots, steps); ++m) {
    std::vector<double> &next = chain_.emplace_back(last_);
    // Enough slow slots for all steps: one table, which refers to itself.
    const bool unlimited = levels.slow_slots >= steps;
    const std::vector<double> &rest = unlimited ? next : chain_[m - 1];
    for (int64_t n = 2; n <= steps; ++n)
      for (int64_t j = 1; j < n; ++j)
        next[n] = std::min(next[n], write(j) + j + rest[n - j] + read_ + replayed_[j]);
    if (unlimited) break;
  }
}

double TwoLevels::write(int64_t j) const {
  return levels_.overlap ? std::max(0.0, levels_.write - static_cast<double>(j)) : levels_.write;
}

double TwoLevels::replayed_split(int64_t n, int64_t j, bool training) const {
  return static_cast<double>(j) + fast_[n - j + training] + read_ + replayed_[j];
}

int64_t TwoLevels::replayed_part(int64_t n, bool training) const {
  int64_t part = 0;
  double best = kNever;
  for (int64_t j = n - !training; j >= 1; --j)
    if (const double seconds = replayed_split(n, j, training); seconds < best)
      best = seconds, part = j;
  return part;
}

int64_t TwoLevels::chain_part(int64_t n, int64_t m) const {
  const bool unlimited = levels_.slow_slots >= steps_;
  const std::vector<double> &rest = unlimited ? chain_.back() : chain_[std::max<int64_t>(0, m - 1)];
  const std::vector<double> &here = unlimited ? chain_.back() : chain_[m];
  if (here[n] >= last_[n]) return 0;
  int64_t part = 0;
  double best = kNever;
  for (int64_t j = 1; j < n; ++j)
    if (const double seconds = write(j) + j + rest[n - j] + read_ + replayed_[j]; seconds < best)
      best = seconds, part = j;
  return part;
}

PlanTables TwoLevels::plan() {
  struct Part {
    int64_t begin, end, slot, fast;  // fast: fast slots, that of its start included; 0: a slow one
  };
  PlanTables tables(steps_);
  std::vector<Part> stack{{0, steps_, 0, 0}};
  tables.begin_segment(0);
  // The chain.
  for (int64_t m = levels_.slow_slots;; --m) {
    const Part last = stack.back();
    const int64_t part = chain_part(last.end - last.begin, m);
    if (part == 0) break;
    stack.back().end = last.begin + part;
    stack.push_back({last.begin + part, last.end, last.slot + 1, 0});
    tables.run(part, last.slot + 1, kNone, kNone);
  }
  slow_used_ = static_cast<int64_t>(stack.size());
  std::vector<int64_t> parts;
  bool training = true;
  while (!stack.empty()) {
    const Part whole = stack.back();
    const int64_t n = whole.end - whole.begin;
    int64_t part = 0;
    if (n + training > 1) {
      if (whole.fast == 0) {
        part = replayed_part(n, training);
      } else {
        // One step after the other where the fast slots hold all states.
        parts.clear();
        Binomial(whole.fast).split(n, 1, training, parts);
        part = parts.empty() ? 1 : parts[0];
      }
    }
    if (part == 0) {
      tables.end_segment(kNone);
      stack.pop_back();
    } else if (part == n) {
      tables.run(part, kNone, kNone, kNone);
      tables.end_segment(kNone);
    } else {
      const bool has_slot = training || n - part > 1;
      const int64_t slot = whole.fast == 0 ? slow_used_ : whole.slot + 1;
      const int64_t fast = whole.fast == 0 ? levels_.fast_slots : whole.fast - 1;
      stack.back().end = whole.begin + part;
      stack.push_back({whole.begin + part, whole.end, slot, fast});
      tables.run(part, has_slot ? slot : kNone, kNone, kNone);
      continue;
    }
    training = false;
    if (!stack.empty()) tables.begin_segment(stack.back().slot);
  }
  return tables;
}

}  // namespace metagrad
