// The simulator: runs a plan on step numbers in place of states and gradients.
#pragma once

#include <cstdint>

namespace metagrad {

// The tables of a plan (metagrad.runtime.plan.Plan), borrowed.
struct PlanView {
  int64_t steps, state_slots, gradient_slots, runs;
  const int32_t *load, *segment, *run_steps, *run_save, *run_keep, *run_reuse, *gradient;
};

// Slots in use at the worst moment: a slot is in use from when it is written to when that content
// is last read.
struct Peak {
  int64_t state_slots, gradient_slots;
};

// Throws std::invalid_argument, naming the segment, the run and what the slots hold, if some VJP
// would not see exactly s_t and G_t, or if some slot is read before it is written, holds another
// step than the one needed, or lies outside the budget. Time: O(runs + steps + kept and reused
// gradients).
Peak simulate(const PlanView &plan);

}  // namespace metagrad
