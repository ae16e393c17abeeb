#include "marker.h"

#include <algorithm>

#include "utf8.h"

namespace pyllm::tokenizers {

std::vector<uint32_t> characters_before_marker(const std::vector<std::string_view>& tokens) {
  std::vector<uint32_t> found;
  for (const std::string_view token : tokens) {
    for (size_t at = token.find(kMarker, 1); at != std::string_view::npos; at = token.find(kMarker, at + 1)) {
      const uint32_t before = decode_utf8(token, previous_utf8(token, at)).code_point;
      if (before != kMarkerCodePoint) found.push_back(before);
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

}  // namespace pyllm::tokenizers
