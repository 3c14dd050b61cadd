// Phrases that are to be found more readily, in one automaton.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace voxformer {

// A phrase adds its boost wherever it occurs. While it is being spelled, the share of it that is
// there already is lent, or a beam would drop the phrase before its end; where it does not go on,
// that is given back. So the sum over a finished text is that of the phrases in it, overlapping
// ones included, whatever was lent between. All of them are followed at once (Aho and Corasick
// 1975).
class HotwordAutomaton {
 public:
  using State = std::int32_t;
  static constexpr State kStart = 0;

  struct Phrase {
    std::vector<std::int32_t> symbols;
    double boost;
    // Symbols at the beginning and at the end that are not of the phrase itself and count for
    // nothing in the share: the spaces around a word.
    std::size_t edge = 0;
  };

  // Throws std::invalid_argument that names the phrase where one is empty or has a boost that is
  // not above zero and finite.
  explicit HotwordAutomaton(const std::vector<Phrase>& phrases);

  State Next(State state, std::int32_t symbol) const noexcept;

  // What the phrases that end here add.
  double Completed(State state) const noexcept { return At(state).completed; }
  // What is lent to the phrase begun here that has the largest share of its boost.
  double Lent(State state) const noexcept { return At(state).lent; }

  std::size_t size() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    State fallback = kStart;  // the longest proper suffix that begins a phrase
    double completed = 0.0;
    double lent = 0.0;
  };

  const Entry& At(State state) const noexcept { return entries_[static_cast<std::size_t>(state)]; }
  State Edge(State state, std::int32_t symbol) const noexcept;

  std::vector<Entry> entries_;
  std::unordered_map<std::uint64_t, State> edges_;  // by state and symbol
};

}  // namespace voxformer
