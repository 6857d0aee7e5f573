#include "program/arguments.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "pipeline/check.h"

namespace n2m {
namespace {

bool Known(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Status Bad(const std::string& message) { return Status::InvalidArgument(message); }

std::string Short(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (!text.empty() && text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

bool ParseNumber(const std::string& text, double* out) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *out);
  return result.ec == std::errc() && result.ptr == end && std::isfinite(*out);
}

Status Arguments::Read(int argc, char** argv) {
  bool only_words = false;
  for (int i = 0; i < argc; ++i) {
    std::string name = argv[i], value;
    if (only_words || name.size() < 2 || name[0] != '-') {
      words_.push_back(name);
      continue;
    }
    if (name == "--") {
      only_words = true;
      continue;
    }
    const size_t equals = name.find('=');
    const bool joined = name.rfind("--", 0) == 0 && equals != std::string::npos;
    if (joined) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (const auto alias = aliases_.find(name); alias != aliases_.end()) name = alias->second;
    if (Known(flags_, name)) {
      if (joined) return Bad(name + " takes no value");
    } else if (!Known(valued_, name)) {
      std::string all;
      for (const auto* names : {&valued_, &flags_}) {
        for (const std::string& known : *names) all += (all.empty() ? "" : ", ") + known;
      }
      return Bad("there is no option " + name + "; the options are " + all);
    } else if (!joined) {
      if (++i == argc) return Bad(name + " wants a value");
      value = argv[i];
    }
    if (!options_.emplace(name, value).second) return Bad(name + " is given twice");
  }
  return Status::Ok();
}

std::string Arguments::Text(const std::string& name, const std::string& otherwise) const {
  const auto found = options_.find(name);
  return found == options_.end() ? otherwise : found->second;
}

Status Arguments::Number(const std::string& name, double low, double high, double* out) const {
  const auto found = options_.find(name);
  if (found == options_.end()) return Status::Ok();
  double value = 0.0;
  if (!ParseNumber(found->second, &value) || value < low || value > high) {
    return Bad(name + " must be a number from " + Short(low) + " to " + Short(high) + ", got " +
               found->second);
  }
  *out = value;
  return Status::Ok();
}

Status Arguments::Whole(const std::string& name, int64_t low, int64_t high, int64_t* out) const {
  double value = static_cast<double>(*out);
  N2M_RETURN_IF_ERROR(Number(name, static_cast<double>(low), static_cast<double>(high), &value));
  if (value != std::floor(value)) return Bad(name + " must be a whole number, got " + Text(name));
  *out = static_cast<int64_t>(value);
  return Status::Ok();
}

}  // namespace n2m
