// How the parts of a tokenizer.json are read: by name, with no option that is not understood.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "noise2music/status.h"
#include "pipeline/json.h"

namespace n2m {

// One part (a normaliser, a pre-tokenizer, the model) of the file that messages name.
struct TokenPart {
  const Json* json = nullptr;  // null or a JSON null: there is none
  const std::string& file;

  bool none() const { return json == nullptr || json->is(Json::Kind::kNull); }
  // "Metaspace"; "" where it has no type.
  std::string type() const { return Text("type", ""); }
  // A string option, or a bool one as "true" and "false"; `otherwise` where there is none of it or
  // it is of another kind.
  std::string Text(const char* name, const char* otherwise) const;
  bool Is(const char* name, const char* value, const char* otherwise) const {
    return Text(name, otherwise) == value;
  }
  // Refused if the part has an option that is not in the list, but for its type.
  Status Only(std::initializer_list<const char*> names) const;
  // The steps of a Sequence under `list`, or the part itself as its only step.
  std::vector<TokenPart> Steps(const char* list) const;
  // "n2m.tokenizer: FILE <rule>".
  Status Fail(const std::string& rule) const;
};

}  // namespace n2m
