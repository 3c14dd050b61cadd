#include "hotwords.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace voxformer {
namespace {

constexpr HotwordAutomaton::State kNone = -1;

std::uint64_t Key(HotwordAutomaton::State state, std::int32_t symbol) noexcept {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(state)) << 32) |
         static_cast<std::uint32_t>(symbol);
}

}  // namespace

HotwordAutomaton::HotwordAutomaton(const std::vector<Phrase>& phrases) {
  entries_.emplace_back();
  struct Arc {
    State from;
    std::int32_t symbol;
    State to;
  };
  std::vector<Arc> arcs;  // in the order of phrases: a state's arc comes after its parent's
  std::vector<std::size_t> depths = {0};
  for (std::size_t p = 0; p < phrases.size(); ++p) {
    const Phrase& phrase = phrases[p];
    if (phrase.symbols.size() <= 2 * phrase.edge) {
      throw std::invalid_argument("hotword " + std::to_string(p) + " is empty");
    }
    if (!(phrase.boost > 0.0) || !std::isfinite(phrase.boost)) {
      throw std::invalid_argument("hotword " + std::to_string(p) + " has boost " +
                                  std::to_string(phrase.boost) +
                                  "; it must be above 0, in natural-log units");
    }
    const std::size_t size = phrase.symbols.size() - 2 * phrase.edge;
    State state = kStart;
    for (std::size_t k = 0; k < phrase.symbols.size(); ++k) {
      State next = Edge(state, phrase.symbols[k]);
      if (next == kNone) {
        next = static_cast<State>(entries_.size());
        entries_.emplace_back();
        depths.push_back(k + 1);
        edges_.emplace(Key(state, phrase.symbols[k]), next);
        arcs.push_back({state, phrase.symbols[k], next});
      }
      state = next;
      // The last symbol completes the phrase, and what was lent turns into the boost itself.
      if (k + 1 < phrase.symbols.size()) {
        Entry& entry = entries_[static_cast<std::size_t>(state)];
        const std::size_t there = std::min(k + 1 - std::min(k + 1, phrase.edge), size);
        const double share = static_cast<double>(there) / static_cast<double>(size);
        entry.lent = std::max(entry.lent, phrase.boost * share);
      }
    }
    entries_[static_cast<std::size_t>(state)].completed += phrase.boost;
  }
  // Suffixes are shorter than what they are suffixes of, so shorter states come first.
  std::stable_sort(arcs.begin(), arcs.end(), [&](const Arc& a, const Arc& b) {
    return depths[static_cast<std::size_t>(a.to)] < depths[static_cast<std::size_t>(b.to)];
  });
  for (const Arc& arc : arcs) {
    Entry& entry = entries_[static_cast<std::size_t>(arc.to)];
    entry.fallback = arc.from == kStart ? kStart : Next(At(arc.from).fallback, arc.symbol);
    entry.completed += At(entry.fallback).completed;
    entry.lent = std::max(entry.lent, At(entry.fallback).lent);
  }
}

HotwordAutomaton::State HotwordAutomaton::Edge(State state, std::int32_t symbol) const noexcept {
  const auto found = edges_.find(Key(state, symbol));
  return found == edges_.end() ? kNone : found->second;
}

HotwordAutomaton::State HotwordAutomaton::Next(State state, std::int32_t symbol) const noexcept {
  for (;;) {
    const State next = Edge(state, symbol);
    if (next != kNone) return next;
    if (state == kStart) return kStart;
    state = At(state).fallback;
  }
}

}  // namespace voxformer
