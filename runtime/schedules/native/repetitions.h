// The count of Revolve (Griewank and Walther 2000, Algorithm 799): what n steps with s slots take.
#pragma once

#include <algorithm>
#include <cstdint>

namespace metagrad {

// The advances that reverse n >= 1 steps with s >= 1 slots, that of the first state included:
// t(n, s) = r n - C(s + r, s + 1), r the least integer with n <= C(s + r, s). In floating point:
// for one slot it is n (n - 1) / 2.
inline double fewest_advances(int64_t n, int64_t s) {
  if (n <= s + 1) return static_cast<double>(n - 1);
  if (s == 1) return 0.5 * static_cast<double>(n) * static_cast<double>(n - 1);
  double reach = static_cast<double>(s + 1);
  int64_t r = 1;
  while (reach < static_cast<double>(n)) {
    ++r;
    reach = reach * static_cast<double>(s + r) / static_cast<double>(r);
  }
  return static_cast<double>(r) * static_cast<double>(n) -
         reach * static_cast<double>(r) / static_cast<double>(s + 1);
}

// The most steps, but no more than `limit`, that s >= 1 slots reverse with no step run more than
// `repetitions` times: C(s + r, s).
inline int64_t longest(int64_t s, double repetitions, int64_t limit) {
  if (repetitions < 1) return std::min<int64_t>(1, limit);
  if (s + 1 >= limit) return limit;
  if (s == 1) return repetitions + 1 >= limit ? limit : static_cast<int64_t>(repetitions) + 1;
  double reach = static_cast<double>(s + 1);
  for (double r = 2; r <= repetitions && reach < limit; ++r) reach = reach * (s + r) / r;
  return reach >= limit ? limit : static_cast<int64_t>(reach + 0.5);
}

}  // namespace metagrad
