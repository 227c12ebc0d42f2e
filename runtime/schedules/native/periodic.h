// Periodic checkpointing: one level of segments of equal length.
#pragma once

#include <algorithm>

#include "reversal.h"

namespace metagrad {

class Periodic : public Splitter {
 public:
  explicit Periodic(int64_t every) : every_(every) {}

  // Parts are no longer than `every`, so only the whole run is ever split.
  void split(int64_t length, int64_t, bool, std::vector<int64_t> &parts) const override {
    if (length <= every_) return;
    for (int64_t at = 0; at < length; at += every_) parts.push_back(std::min(every_, length - at));
  }

 private:
  int64_t every_;
};

}  // namespace metagrad
