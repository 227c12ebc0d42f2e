#include "plan_tables.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace metagrad {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

PlanTables::PlanTables(int64_t steps) : steps(steps) {
  load.reserve(steps + 1);
  segment.reserve(steps + 2);
  gradient.reserve(steps + 1);
  segment.push_back(0);
}

void PlanTables::begin_segment(int64_t slot) { load.push_back(static_cast<int32_t>(slot)); }

void PlanTables::run(int64_t steps, int64_t save, int64_t keep, int64_t reuse) {
  if (steps == 0) return;
  state_slots = std::max(state_slots, save + 1);
  if (keep != kNone) gradient_slots = std::max(gradient_slots, keep + steps);
  if (continues(keep, reuse)) {
    run_steps.back() += static_cast<int32_t>(steps);
    run_save.back() = static_cast<int32_t>(save);
    return;
  }
  if (static_cast<int64_t>(run_steps.size()) == kMost)
    throw std::length_error("a plan's tables are int32: this schedule needs more than " +
                            std::to_string(kMost) + " runs; give it more slots");
  run_steps.push_back(static_cast<int32_t>(steps));
  run_save.push_back(static_cast<int32_t>(save));
  run_keep.push_back(static_cast<int32_t>(keep));
  run_reuse.push_back(static_cast<int32_t>(reuse));
}

// A save ends a run, as does a change of where gradients go to or come from.
bool PlanTables::continues(int64_t keep, int64_t reuse) const {
  if (static_cast<int64_t>(run_steps.size()) == segment.back() || run_save.back() != kNone)
    return false;
  const auto follows = [&](int64_t last, int64_t next) {
    return last == kNone ? next == kNone : next == last + run_steps.back();
  };
  return follows(run_keep.back(), keep) && follows(run_reuse.back(), reuse);
}

void PlanTables::end_segment(int64_t slot) {
  segment.push_back(static_cast<int32_t>(run_steps.size()));
  gradient.push_back(static_cast<int32_t>(slot));
}

}  // namespace metagrad
