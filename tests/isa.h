// The scans of rows under every instruction set that this machine has.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "../src/core/isa.h"

namespace gsd::test {

template <typename Body>
void for_each_isa(Body body) {
  for (const Isa most : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    limit_isa(most);
    SCOPED_TRACE("instruction set " + std::to_string(static_cast<int>(most)));
    if (isa() == most) body();
  }
  limit_isa(Isa::kAvx512);
}

}  // namespace gsd::test
