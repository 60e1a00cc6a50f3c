// The members of an object in order, as rules.
#pragma once

#include <vector>

#include "rules.h"

namespace gsd::schema {

struct Member {
  Piece piece = {};  // name, colon and value
  bool required = false;
  bool possible = true;
  std::vector<std::size_t> needs = {};  // members that must be there if this one is
};

struct Members {
  std::vector<Member> named;
  Piece other;  // one more, after the named ones; no text: none may come
  std::int64_t least = 0;
  std::int64_t most = -1;  // no limit
};

// A rule for what stands between the braces.
std::uint32_t add_members(Rules& rules, const Members& members, Work& work);

}  // namespace gsd::schema
