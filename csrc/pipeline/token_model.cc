#include "pipeline/token_model.h"

#include <algorithm>
#include <cstdio>

namespace n2m {

int32_t TokenModel::IdOf(const std::string& piece) const {
  const auto found = vocab_.find(piece);
  return found == vocab_.end() ? -1 : found->second;
}

bool TokenModel::Add(const std::string& piece, int64_t id) {
  if (id < 0 || id > 10'000'000) return false;
  size_ = std::max(size_, id + 1);
  return vocab_.emplace(piece, static_cast<int32_t>(id)).second;
}

std::vector<int32_t> TokenModel::ByteIds() const {
  std::vector<int32_t> ids;
  for (unsigned byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    ids.push_back(IdOf(name));
  }
  return ids;
}

}  // namespace n2m
