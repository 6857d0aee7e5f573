// Reading a command line: named options, each with a value or without, and the words between them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "noise2music/status.h"

namespace n2m {

class Arguments {
 public:
  // `valued` and `flags` are the names that are known, as "--seed"; `aliases` are short for one of
  // them.
  Arguments(std::vector<std::string> valued, std::vector<std::string> flags,
            std::map<std::string, std::string> aliases)
      : valued_(std::move(valued)), flags_(std::move(flags)), aliases_(std::move(aliases)) {}

  Status Read(int argc, char** argv);

  const std::vector<std::string>& words() const { return words_; }
  bool Has(const std::string& name) const { return options_.count(name) > 0; }
  std::string Text(const std::string& name, const std::string& otherwise = "") const;
  // Numbers from low to high; untouched where the option was not given.
  Status Number(const std::string& name, double low, double high, double* out) const;
  Status Whole(const std::string& name, int64_t low, int64_t high, int64_t* out) const;

 private:
  std::vector<std::string> valued_, flags_;
  std::map<std::string, std::string> aliases_, options_;
  std::vector<std::string> words_;
};

// "12" as a number; false for anything else.
bool ParseNumber(const std::string& text, double* out);

}  // namespace n2m
