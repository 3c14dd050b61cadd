#include "prefix_tree.h"

#include <limits>
#include <stdexcept>

namespace voxformer {
namespace {

constexpr PrefixTree::Node kFree = -1;

constexpr std::size_t kFirstBuckets = 256;

}  // namespace

void PrefixTree::Reset() {
  nodes_.clear();
  nodes_.push_back({kFree, kNoToken, 0});
  buckets_.assign(kFirstBuckets, kFree);
}

std::size_t PrefixTree::Bucket(Node parent, std::int32_t token) const noexcept {
  std::uint64_t key = (static_cast<std::uint64_t>(static_cast<std::uint32_t>(parent)) << 32) |
                      static_cast<std::uint32_t>(token);
  // Finaliser of SplitMix64: consecutive parents and tokens must not probe into one another.
  key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9ULL;
  key = (key ^ (key >> 27)) * 0x94d049bb133111ebULL;
  key ^= key >> 31;
  const std::size_t mask = buckets_.size() - 1;
  std::size_t bucket = static_cast<std::size_t>(key) & mask;
  while (buckets_[bucket] != kFree) {
    const Entry& entry = nodes_[static_cast<std::size_t>(buckets_[bucket])];
    if (entry.parent == parent && entry.token == token) break;
    bucket = (bucket + 1) & mask;
  }
  return bucket;
}

PrefixTree::Node PrefixTree::Child(Node parent, std::int32_t token) {
  std::size_t bucket = Bucket(parent, token);
  if (buckets_[bucket] != kFree) return buckets_[bucket];
  if (nodes_.size() >= static_cast<std::size_t>(std::numeric_limits<Node>::max())) {
    throw std::length_error("the search holds more than 2^31 prefixes; use a smaller beam_size");
  }
  // A table at most half full keeps the probes short.
  if (2 * (nodes_.size() + 1) > buckets_.size()) {
    Grow(2 * buckets_.size());
    bucket = Bucket(parent, token);
  }
  const Node node = static_cast<Node>(nodes_.size());
  nodes_.push_back({parent, token, depth(parent) + 1});
  buckets_[bucket] = node;
  return node;
}

void PrefixTree::Grow(std::size_t buckets) {
  buckets_.assign(buckets, kFree);
  for (std::size_t i = 1; i < nodes_.size(); ++i) {
    buckets_[Bucket(nodes_[i].parent, nodes_[i].token)] = static_cast<Node>(i);
  }
}

void PrefixTree::Sequence(Node node, std::vector<std::int32_t>* token_ids) const {
  token_ids->resize(static_cast<std::size_t>(depth(node)));
  for (std::size_t i = token_ids->size(); i-- > 0; node = parent(node)) {
    (*token_ids)[i] = token(node);
  }
}

bool PrefixTree::Before(Node a, std::int32_t token_a, Node b, std::int32_t token_b) const noexcept {
  // Walks both up to the same depth, then side by side; the last difference seen is the first one
  // of the sequences.
  const std::int32_t length_a = depth(a) + (token_a == kNoToken ? 0 : 1);
  const std::int32_t length_b = depth(b) + (token_b == kNoToken ? 0 : 1);
  std::int32_t position_a = length_a;
  std::int32_t position_b = length_b;
  const auto step = [this](Node* node, std::int32_t* extra, std::int32_t* position) {
    if (*extra != kNoToken) {
      *extra = kNoToken;
    } else {
      *node = parent(*node);
    }
    --*position;
  };
  while (position_a > position_b) step(&a, &token_a, &position_a);
  while (position_b > position_a) step(&b, &token_b, &position_b);
  bool before = length_a < length_b;
  while (position_a > 0) {
    // Equal nodes with nothing after them are equal all the way up.
    if (a == b && token_a == kNoToken && token_b == kNoToken) break;
    const std::int32_t last_a = token_a != kNoToken ? token_a : token(a);
    const std::int32_t last_b = token_b != kNoToken ? token_b : token(b);
    if (last_a != last_b) before = last_a < last_b;
    step(&a, &token_a, &position_a);
    step(&b, &token_b, &position_b);
  }
  return before;
}

}  // namespace voxformer
