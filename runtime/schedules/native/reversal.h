// The walk that all tree schedules share: segments of the run, split until they are leaves,
// reversed from right to left.
#pragma once

#include <cstdint>
#include <vector>

#include "plan_tables.h"

namespace metagrad {

// How a schedule splits a segment. Lengths are in units of `Options::unit` steps.
class Splitter {
 public:
  virtual ~Splitter() = default;

  // Writes the lengths of the parts of a segment, from left to right, into `parts`; none: the
  // segment is a leaf. `taken` state slots hold states, that of the segment's start included. On
  // the way of the training run the last part may be of length 0: the run then goes to the end
  // without a further save.
  virtual void split(int64_t length, int64_t taken, bool training,
                     std::vector<int64_t> &parts) const = 0;
};

struct Options {
  int64_t unit;  // steps of a planning unit: the splitter's 1
  int64_t hold;  // a leaf holds every hold-th state; those between are rebuilt from kept gradients
  bool keep;     // leaves keep gradients
};

// The plan of `steps` steps. The stack of segments is explicit, and each part's start is saved in
// the slot of its depth in the stack.
PlanTables reverse(int64_t steps, const Splitter &splitter, const Options &options);

}  // namespace metagrad
