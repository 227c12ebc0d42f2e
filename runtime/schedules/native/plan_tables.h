// The tables of a plan while it is being written, segment by segment.
#pragma once

#include <cstdint>
#include <vector>

namespace metagrad {

constexpr int64_t kNone = -1;

// The tables of metagrad.runtime.plan.Plan. Call order: begin_segment, run*, end_segment; T + 1
// times.
class PlanTables {
 public:
  // `steps` fits in int32; the caller has checked.
  explicit PlanTables(int64_t steps);

  void begin_segment(int64_t load);

  // A run of no steps is left out. Runs that continue each other become one. Throws
  // std::length_error if the runs outgrow int32.
  void run(int64_t steps, int64_t save, int64_t keep, int64_t reuse);

  // `gradient`: the slot of the gradient that the segment's VJP takes, or kNone.
  void end_segment(int64_t gradient);

  int64_t steps, state_slots = 1, gradient_slots = 0;
  std::vector<int32_t> load, segment, run_steps, run_save, run_keep, run_reuse, gradient;

 private:
  bool continues(int64_t keep, int64_t reuse) const;
};

}  // namespace metagrad
