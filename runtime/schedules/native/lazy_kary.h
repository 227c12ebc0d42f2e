// The lazy k-ary tree of Replay (Engstrom et al. 2025, arXiv 2503.13751).
#pragma once

#include <algorithm>

#include "reversal.h"

namespace metagrad {

// A segment is split into k parts of equal length, up to one leaf of k units; a segment of at most
// k units is a leaf. All leaves but the first of the run are full, so that most gradients find a
// slot; parts of equal length up to one unit leave two thirds of the gradients to be computed on
// the spot for T = 100, k = 4. With ceil(T / k) leaves the tree is still ceil(log_k T) deep, and
// holds at most (k - 1) * ceil(log_k T) + 1 states.
class LazyKary : public Splitter {
 public:
  explicit LazyKary(int64_t k) : k_(k) {}

  void split(int64_t length, int64_t, bool, std::vector<int64_t> &parts) const override {
    if (length <= k_) return;
    const int64_t leaves = (length + k_ - 1) / k_;
    const int64_t count = std::min(k_, leaves);
    int64_t rest = length;
    for (int64_t i = 0; i < count; ++i) {
      // The longer parts come last.
      parts.push_back(k_ * (leaves / count + (i >= count - leaves % count)));
      rest -= parts.back();
    }
    parts.front() += rest;  // the first leaf may be short
  }

 private:
  int64_t k_;
};

}  // namespace metagrad
