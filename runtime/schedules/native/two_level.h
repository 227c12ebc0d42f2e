// Checkpointing in two levels: slots in fast memory, and slots that take time to write and to read.
#pragma once

#include <cstdint>
#include <vector>

#include "plan_tables.h"

namespace metagrad {

// Times are in units of one step's advance. Slow slots hold a chain of states that the training run
// leaves behind (Aupy et al. 2016, Disk-Revolve); between two of them fast slots alone are used.
//
//   E(1) = 0
//   E(n) = min_j  j + t(n - j, c) + read + E(j)                      its start is in a slow slot
//   E0(n) = min_j j + t(n - j + 1, c) + read + E(j)                  the same in the training run
//   D(n, m) = min( E0(n),  min_j  write(j) + j + D(n - j, m - 1) + read + E(j) )
//
// t(n, c): Revolve with c fast slots, that of the start included. With `copies` a start that is
// read from a slow slot may be put into a fast one, and E(n) may be t(n, c).
//
// With `overlap`, a write goes on while the run advances, and costs max(0, write - j): the next
// write waits for it. A read goes on while a step is reversed, which takes `reverse`.
struct Levels {
  int64_t fast_slots, slow_slots;  // the start is in a slow slot of its own, not counted here
  double write, read, reverse;
  bool overlap, copies;
};

class TwoLevels {
 public:
  TwoLevels(int64_t steps, const Levels &levels);

  // Advances, writes and reads beside the steps' reversals.
  double seconds() const { return chain_.back()[steps_]; }

  // The plan. Slow slots come first: `slow_slots` says how many. Not with `copies`.
  PlanTables plan();
  int64_t slow_slots() const { return slow_used_; }

 private:
  double fast(int64_t n, int64_t slots) const;
  double write(int64_t j) const;
  int64_t replayed_part(int64_t n, bool training) const;
  int64_t chain_part(int64_t n, int64_t m) const;
  double replayed_split(int64_t n, int64_t j, bool training) const;

  int64_t steps_, slow_used_ = 1;
  Levels levels_;
  double read_;
  std::vector<double> fast_;                // t(n, c)
  std::vector<double> replayed_;            // E
  std::vector<double> last_;                // E0
  std::vector<std::vector<double>> chain_;  // D, by m
};

}  // namespace metagrad
