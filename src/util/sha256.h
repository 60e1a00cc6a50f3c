// SHA-256 (FIPS 180-4), for names that do not tell what they stand for.
#pragma once

#include <string>
#include <string_view>

namespace gsd {

// 64 hexadecimal digits. Thread safe.
std::string sha256(std::string_view bytes);

}  // namespace gsd
