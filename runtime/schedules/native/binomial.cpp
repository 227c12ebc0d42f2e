#include "binomial.h"

#include <algorithm>

namespace metagrad {
namespace {

// The longest first part of an optimal split of n steps with s >= 2 slots, n > s + 1. Optimal are
// first parts between C(s + r - 2, s) and C(s + r - 1, s) that leave a second part between C(s + r
// - 2, s - 1) and C(s + r - 1, s - 1). All cost the same number of advances; the longest leaves the
// fewest leaves, and so the fewest gradients to compute on the spot (half as many as the shortest
// at 24 slots, T = 256).
int64_t first_part(int64_t n, int64_t s) {
  int64_t before = 1;            // C(s + r - 1, s) at r = 1
  int64_t reach = s + 1, r = 1;  // C(s + r, s)
  while (reach < n) {
    ++r;
    before = reach;
    // C(s + r, s) = C(s + r - 1, s) * (s + r) / r. No overflow: C(s + r - 1, s), s and r are less
    // than n, and n fits in int32.
    reach = reach * (s + r) / r;
  }
  // C(s + r - 2, s - 1) = C(s + r - 1, s) - C(s + r - 2, s), and C(s + r - 2, s) = C(s + r - 1, s)
  // * (r - 1) / (s + r - 1)
  const int64_t least_second = before - before * (r - 1) / (s + r - 1);
  return std::min(before, n - least_second);
}

}  // namespace

void Binomial::split(int64_t length, int64_t taken, bool training,
                     std::vector<int64_t> &parts) const {
  const int64_t s = slots_ - taken + 1;
  const int64_t n = length + training;
  if (n <= s + 1) return;
  const int64_t first = s == 1 ? n - 1 : first_part(n, s);
  parts.push_back(first);
  parts.push_back(length - first);
}

}  // namespace metagrad
