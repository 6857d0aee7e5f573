#include "pipeline/token_part.h"

#include <algorithm>
#include <string_view>

namespace n2m {

std::string TokenPart::Text(const char* name, const char* otherwise) const {
  const Json* found = json == nullptr ? nullptr : json->Find(name);
  if (found == nullptr) return otherwise;
  if (found->is(Json::Kind::kBool)) return found->boolean() ? "true" : "false";
  return found->is(Json::Kind::kString) ? found->string() : otherwise;
}

Status TokenPart::Only(std::initializer_list<const char*> names) const {
  for (const Json::Member& member : json->members()) {
    const bool known = std::any_of(names.begin(), names.end(),
                                   [&](std::string_view name) { return name == member.first; });
    if (member.first != "type" && !known)
      return Fail("has an option of " + type() + " that is not known: " + member.first);
  }
  return Status::Ok();
}

std::vector<TokenPart> TokenPart::Steps(const char* list) const {
  std::vector<TokenPart> steps;
  if (none()) return steps;
  const Json* items = json->Find(list);
  if (type() != "Sequence" || items == nullptr) return {*this};
  for (const Json& item : items->items()) steps.push_back({&item, file});
  return steps;
}

Status TokenPart::Fail(const std::string& rule) const {
  return Status::InvalidArgument("n2m.tokenizer: " + file + " " + rule);
}

}  // namespace n2m
