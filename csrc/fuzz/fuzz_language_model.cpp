// Arbitrary bytes as ARPA text, in two chunks, and as the file of a model with the checksum that
// they should have, which no fuzzer would guess. What is accepted must answer every question with a
// number.
#include <fuzzer/FuzzedDataProvider.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ngram_builder.h"
#include "ngram_image.h"
#include "ngram_model.h"

namespace voxformer {
namespace {

void Ask(const NgramModel& model, FuzzedDataProvider* data) {
  NgramModel::State state = data->ConsumeBool() ? model.BeginState() : model.EmptyState();
  for (int left = 12; left > 0; --left) {
    const NgramModel::WordId word = data->ConsumeBool()
                                        ? model.Find(data->ConsumeRandomLengthString(6))
                                        : data->ConsumeIntegralInRange<NgramModel::WordId>(0, 20);
    if (std::isnan(model.Score(state, word, &state))) std::abort();
  }
  if (std::isnan(model.Score(state, model.end_id(), nullptr))) std::abort();
}

// The image of a file, which is mapped in earnest.
NgramImage ImageOf(const std::string& file) {
  // Of 8-byte words, since a mapping is aligned.
  const std::shared_ptr<std::uint64_t[]> words(new std::uint64_t[file.size() / 8 + 1]());
  char* const bytes = reinterpret_cast<char*>(words.get());
  std::memcpy(bytes, file.data(), file.size());
  if (file.size() >= sizeof(NgramHeader)) {
    auto* const header = reinterpret_cast<NgramHeader*>(bytes);
    SignNgramHeader(header);
    header->size = file.size();
    header->checksum = NgramChecksum(bytes, file.size());
  }
  CheckNgramImage(bytes, file.size(), "fuzz.voxlm");
  return {std::shared_ptr<const char>(words, bytes), file.size()};
}

}  // namespace
}  // namespace voxformer

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  const bool is_arpa = data.ConsumeBool();
  const auto cut = data.ConsumeIntegral<std::uint16_t>();
  const std::string questions = data.ConsumeRandomLengthString(80);
  FuzzedDataProvider asked(reinterpret_cast<const std::uint8_t*>(questions.data()),
                           questions.size());
  const std::string file = data.ConsumeRemainingBytesAsString();
  try {
    if (is_arpa) {
      voxformer::NgramBuilder builder("fuzz.arpa");
      builder.Feed(std::string_view(file).substr(0, cut));
      if (cut < file.size()) builder.Feed(std::string_view(file).substr(cut));
      voxformer::Ask(voxformer::NgramModel(builder.Finish(0, 0)), &asked);
    } else {
      voxformer::Ask(voxformer::NgramModel(voxformer::ImageOf(file)), &asked);
    }
  } catch (const std::invalid_argument&) {
    // What is refused is refused with a message.
  }
  return 0;
}
