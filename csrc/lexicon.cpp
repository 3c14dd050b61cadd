#include "lexicon.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "refuse.h"

namespace voxformer {
namespace {

void CheckText(const char* name, const std::string& text, std::size_t entry) {
  if (text.empty()) Refuse("lexicon entry ", entry, " has an empty ", name);
  if (text.find(' ') != std::string::npos) {
    Refuse("lexicon entry ", entry, ": ", name, " '", text, "' has a space");
  }
}

}  // namespace

Lexicon::Lexicon(std::vector<Entry> entries)
    : entries_(std::move(entries)), sorted_(entries_.size()) {
  if (entries_.empty()) Refuse("the lexicon has no words");
  std::size_t symbols = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    CheckText("word", entries_[i].word, i);
    CheckText("spelling", entries_[i].spelling, i);
    symbols += entries_[i].spelling.size() + 1;
  }
  if (symbols > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    Refuse("the lexicon's spellings have ", symbols, " bytes; at most 2^31 - 1 are possible");
  }
  std::iota(sorted_.begin(), sorted_.end(), 0);
  const auto spelling = [this](std::int32_t entry) -> const std::string& {
    return entries_[static_cast<std::size_t>(entry)].spelling;
  };
  std::stable_sort(sorted_.begin(), sorted_.end(),
                   [&](std::int32_t a, std::int32_t b) { return spelling(a) < spelling(b); });

  // Breadth first: a node is what a range of sorted_ has in common.
  struct Range {
    std::size_t begin;
    std::size_t end;
    std::size_t depth;
  };
  std::vector<Range> ranges = {{0, sorted_.size(), 0}};
  labels_.push_back('\0');
  parents_.push_back(kNone);
  for (std::size_t node = 0; node < ranges.size(); ++node) {
    const Range range = ranges[node];
    first_child_.push_back(static_cast<Node>(ranges.size()));
    std::size_t at = range.begin;
    while (at < range.end && spelling(sorted_[at]).size() == range.depth) ++at;
    first_ending_.push_back(static_cast<std::int32_t>(range.begin));
    num_ending_.push_back(static_cast<std::int32_t>(at - range.begin));
    while (at < range.end) {
      const char label = spelling(sorted_[at])[range.depth];
      std::size_t end = at;
      while (end < range.end && spelling(sorted_[end])[range.depth] == label) ++end;
      labels_.push_back(label);
      parents_.push_back(static_cast<Node>(node));
      ranges.push_back({at, end, range.depth + 1});
      at = end;
    }
  }
  first_child_.push_back(static_cast<Node>(ranges.size()));
}

Lexicon::Node Lexicon::Next(Node node, char symbol) const noexcept {
  const std::size_t at = static_cast<std::size_t>(node);
  for (Node child = first_child_[at]; child < first_child_[at + 1]; ++child) {
    if (labels_[static_cast<std::size_t>(child)] == symbol) return child;
  }
  return kNone;
}

Lexicon::Node Lexicon::Follow(Node node, const std::string& text) const noexcept {
  for (std::size_t i = 0; i < text.size() && node != kNone; ++i) node = Next(node, text[i]);
  return node;
}

Span<const std::int32_t> Lexicon::Ending(Node node) const noexcept {
  const std::size_t at = static_cast<std::size_t>(node);
  return {sorted_.data() + first_ending_[at], static_cast<std::size_t>(num_ending_[at])};
}

}  // namespace voxformer
