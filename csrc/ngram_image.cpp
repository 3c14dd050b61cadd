#include "ngram_image.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <stdexcept>
#include <system_error>

namespace voxformer {
namespace {

// Like PNG's: a transfer that takes the file for text changes it.
constexpr char kMagic[8] = {'V', 'O', 'X', 'L', 'M', '\r', '\n', '\x1a'};
constexpr std::uint32_t kByteOrder = 0x01020304;
constexpr std::uint32_t kSwappedByteOrder = 0x04030201;
constexpr std::uint32_t kVersion = 1;

static_assert(sizeof(NgramHeader) == 176 && sizeof(NgramNode) == 12, "the format has no padding");

std::size_t Aligned(std::size_t size) noexcept { return (size + 7) & ~std::size_t{7}; }

std::uint64_t Mix(std::uint64_t hash, std::uint64_t value) noexcept {
  // A bijection of each argument, so that no change of a single word is lost.
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 29);
}

std::uint64_t HashWords(const char* bytes, std::size_t size) noexcept {
  // Four lanes, for the latency of the multiplication.
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  std::size_t at = 0;
  for (; at + 32 <= size; at += 32) {
    std::uint64_t words[4];
    std::memcpy(words, bytes + at, sizeof(words));
    for (int i = 0; i < 4; ++i) lanes[i] = Mix(lanes[i], words[i]);
  }
  std::uint64_t tail[4] = {0, 0, 0, 0};
  if (at < size) std::memcpy(tail, bytes + at, size - at);
  for (int i = 0; i < 4; ++i) lanes[i] = Mix(lanes[i], tail[i]);
  std::uint64_t hash = size;
  for (const std::uint64_t lane : lanes) hash = Mix(hash, lane);
  return hash;
}

// Throws with what is wrong with the image of one name.
class Refusal {
 public:
  explicit Refusal(const std::string& name) : name_(name) {}
  void Unless(bool holds, const char* what) const {
    if (!holds)
      throw std::invalid_argument(name_ + ": " + what + "; make it again from the ARPA file");
  }

 private:
  const std::string& name_;
};

constexpr const char* kInconsistent = "the n-gram model contradicts itself";

void CheckHeader(const NgramHeader& header, std::size_t size, const Refusal& refuse) {
  refuse.Unless(std::memcmp(header.magic, kMagic, sizeof(kMagic)) == 0,
                "this is not a .voxlm n-gram model");
  refuse.Unless(header.byte_order != kSwappedByteOrder,
                "the n-gram model was written on a machine of the other byte order");
  refuse.Unless(header.byte_order == kByteOrder, kInconsistent);
  refuse.Unless(header.version == kVersion, "the n-gram model is of another version");
  refuse.Unless(header.size == size, "the n-gram model is truncated or has bytes too many");
  refuse.Unless(header.order >= 1 && header.order <= kMaxNgramOrder, kInconsistent);
  // With counts of 32 bits and a text within the file, no size below can overflow.
  refuse.Unless(header.text_size <= size && header.num_buckets <= size, kInconsistent);
  for (std::size_t i = 0; i < kMaxNgramOrder; ++i) {
    const std::uint64_t most = i < header.order ? kNoIndex - 1 : 0;
    refuse.Unless(header.stored[i] <= most && header.listed[i] <= header.stored[i], kInconsistent);
  }
  refuse.Unless(NgramLayout(header).size == size, kInconsistent);
  refuse.Unless(header.begin_id < header.stored[0] && header.end_id < header.stored[0],
                kInconsistent);
  refuse.Unless(header.num_buckets != 0 && (header.num_buckets & (header.num_buckets - 1)) == 0,
                kInconsistent);
}

bool VocabularyHolds(const char* image, const NgramHeader& header, const NgramLayout& layout) {
  const std::uint32_t* begin = Section<std::uint32_t>(image, layout.word_begin);
  const std::uint64_t num_words = header.stored[0];
  bool holds = begin[0] == 0 && begin[num_words] == header.text_size;
  for (std::uint64_t i = 0; i < num_words; ++i) holds &= begin[i] <= begin[i + 1];
  const std::uint32_t* buckets = Section<std::uint32_t>(image, layout.buckets);
  bool has_free = false;  // or else a search would not end
  for (std::uint64_t i = 0; i < header.num_buckets; ++i) {
    has_free |= buckets[i] == kNoIndex;
    holds &= buckets[i] == kNoIndex || buckets[i] < num_words;
  }
  return holds && has_free;
}

bool NodesHold(const NgramNode* nodes, std::uint64_t count, std::uint64_t num_children) {
  bool holds = nodes[0].first_child == 0 && nodes[count].first_child == num_children;
  for (std::uint64_t i = 0; i < count; ++i) {
    holds &= nodes[i].first_child <= nodes[i + 1].first_child;
    holds &= std::isfinite(nodes[i].log10_prob) && std::isfinite(nodes[i].backoff);
  }
  return holds;
}

}  // namespace

NgramLayout::NgramLayout(const NgramHeader& header) noexcept
    : word_begin(sizeof(NgramHeader)), nodes{}, words{} {
  text = word_begin + Aligned((header.stored[0] + 1) * sizeof(std::uint32_t));
  buckets = text + Aligned(header.text_size);
  size = buckets + Aligned(header.num_buckets * sizeof(std::uint32_t));
  for (std::size_t i = 0; i < header.order; ++i) {
    words[i] = size;
    if (i > 0) size += Aligned(header.stored[i] * sizeof(std::uint32_t));
    nodes[i] = size;
    if (i == 0 || i + 1 < header.order) {
      size += Aligned((header.stored[i] + 1) * sizeof(NgramNode));
    }
  }
  longest = size;
  if (header.order > 1) size += Aligned(header.stored[header.order - 1] * sizeof(float));
}

std::uint64_t VocabularyView::Bucket(std::string_view wanted) const noexcept {
  // FNV-1a, then a finaliser: its low bits alone are poor for short words.
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : wanted) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  hash = (hash ^ (hash >> 32)) * 0x9e3779b97f4a7c15ULL;
  std::uint64_t bucket = (hash >> 32) & mask;
  while (buckets[bucket] != kNoIndex && word(buckets[bucket]) != wanted) {
    bucket = (bucket + 1) & mask;
  }
  return bucket;
}

void SignNgramHeader(NgramHeader* header) noexcept {
  std::memcpy(header->magic, kMagic, sizeof(kMagic));
  header->byte_order = kByteOrder;
  header->version = kVersion;
}

std::uint64_t NgramChecksum(const char* image, std::size_t size) noexcept {
  constexpr std::size_t kBefore = offsetof(NgramHeader, checksum);
  constexpr std::size_t kAfter = kBefore + sizeof(NgramHeader::checksum);
  return Mix(HashWords(image, kBefore), HashWords(image + kAfter, size - kAfter));
}

void CheckNgramImage(const char* image, std::size_t size, const std::string& name) {
  const Refusal refuse(name);
  refuse.Unless(size >= sizeof(NgramHeader),
                "this is not a .voxlm n-gram model, or a truncated one");
  NgramHeader header;
  std::memcpy(&header, image, sizeof(header));
  CheckHeader(header, size, refuse);
  refuse.Unless(NgramChecksum(image, size) == header.checksum,
                "the n-gram model is damaged: its checksum is wrong");
  // A checksum guards against accidents only; what follows is what the queries rely on.
  const NgramLayout layout(header);
  refuse.Unless(VocabularyHolds(image, header, layout), kInconsistent);
  for (std::size_t i = 0; i < header.order; ++i) {
    if (i > 0 && i + 1 == header.order) break;
    refuse.Unless(NodesHold(Section<NgramNode>(image, layout.nodes[i]), header.stored[i],
                            i + 1 < header.order ? header.stored[i + 1] : 0),
                  kInconsistent);
  }
  if (header.order == 1) return;
  const float* longest = Section<float>(image, layout.longest);
  bool holds = true;
  for (std::uint64_t i = 0; i < header.stored[header.order - 1]; ++i)
    holds &= std::isfinite(longest[i]);
  refuse.Unless(holds, kInconsistent);
}

NgramImage MapNgramImage(int descriptor, const std::string& name) {
  struct stat status;
  if (::fstat(descriptor, &status) != 0) {
    throw std::system_error(errno, std::generic_category(), name);
  }
  const std::size_t size = static_cast<std::size_t>(status.st_size);
  Refusal(name).Unless(S_ISREG(status.st_mode) && size >= sizeof(NgramHeader),
                       "this is not a .voxlm n-gram model, or a truncated one");
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) throw std::system_error(errno, std::generic_category(), name);
  NgramImage image;
  image.size = size;
  image.bytes =
      std::shared_ptr<const char>(static_cast<const char*>(mapped),
                                  [mapped, size](const char*) noexcept { ::munmap(mapped, size); });
  CheckNgramImage(image.bytes.get(), image.size, name);
  return image;
}

}  // namespace voxformer
