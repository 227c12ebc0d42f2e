// The numbers of slots of the fastest tree that fits a budget.
#pragma once

#include "fastest.h"

namespace metagrad {

struct Budget {
  int64_t bytes, state_bytes, gradient_bytes;  // one state slot at least fits
  bool keep;                                   // whether gradients can be kept
};

// The tree that takes the least memory among those within `slack` (0.01: a percent) of the fastest.
// `rest` are the seconds that every plan takes beside those of `Weights`.
SlotCounts search(int64_t steps, const Weights &weights, double rest, const Budget &budget,
                  double slack);

}  // namespace metagrad
