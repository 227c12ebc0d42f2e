// Revolve: binomial checkpointing (Griewank and Walther 2000, Algorithm 799, ACM TOMS 26(1)).
#pragma once

#include "reversal.h"

namespace metagrad {

// With s slots, that of the segment's start included, n steps take t(n, s) = r n - C(s + r, s + 1)
// advances, where r, the number of repetitions, is the least with n <= C(s + r, s). This is the
// optimum for a reversal in which the last step's state need not be saved. In the training run the
// last of these steps is the outer function: it is planned as n = T + 1.
class Binomial : public Splitter {
 public:
  explicit Binomial(int64_t slots) : slots_(slots) {}

  void split(int64_t length, int64_t taken, bool training,
             std::vector<int64_t> &parts) const override;

 private:
  int64_t slots_;
};

}  // namespace metagrad
