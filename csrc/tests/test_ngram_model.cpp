// The n-gram model: what it scores, what its reader refuses, and what a damaged image does.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "decimal.h"
#include "ngram_builder.h"
#include "ngram_image.h"
#include "ngram_model.h"

namespace voxformer {
namespace {

constexpr double kLn10 = 2.302585092994045684;

// "b c" is missing though "a b c" is there, and "c a" is the context of nothing.
const char* const kArpa =
    "\\data\\\n"
    "ngram 1=6\n"
    "ngram 2=4\n"
    "ngram 3=2\n"
    "\n"
    "\\1-grams:\n"
    "-1.0\t<unk>\t-0.1\n"
    "-99\t<s>\t-0.5\n"
    "-1.5\t</s>\n"
    "-0.6\ta\t-0.3\n"
    "-0.7\tb\t-0.2\n"
    "-0.8\tc\t0\n"
    "\n"
    "\\2-grams:\n"
    "-0.4\t<s> a\t-0.25\n"
    "-0.5\ta b\t-0.15\n"
    "-0.55\tc a\n"
    "-0.3\tb </s>\n"
    "\n"
    "\\3-grams:\n"
    "-0.05\t<s> a b\n"
    "-0.01\ta b c\n"
    "\n"
    "\\end\\\n";

NgramModel Build(const std::string& text, std::size_t piece = std::string::npos) {
  NgramBuilder builder("lm.arpa");
  for (std::size_t at = 0; at < text.size(); at += std::min(piece, text.size() - at)) {
    builder.Feed(std::string_view(text).substr(at, piece));
  }
  return builder.Finish();
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  CHECK(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string Refusal(const std::string& text) {
  return Message<std::invalid_argument>([&] { Build(text); });
}

double Log10(const NgramModel& model, NgramModel::State* state, const char* word) {
  return model.Score(*state, model.Find(word), state) / kLn10;
}

void TestScoresWorkedOutByHand() {
  const NgramModel model = Build(kArpa);
  CHECK(model.order() == 3 && model.num_words() == 6 && model.num_ngrams() == 12);
  CHECK(model.num_ngrams(2) == 4 && model.has_unknown());
  CHECK(model.Find("b") != 0 && model.Find("d") == 0 && model.Find("") == 0);
  CHECK(model.word(model.end_id()) == "</s>" && model.word(0) == "<unk>");

  NgramModel::State state = model.BeginState();
  CHECK(Near(Log10(model, &state, "a"), -0.4));
  CHECK(Near(Log10(model, &state, "b"), -0.05));
  CHECK(state.length == 2);
  CHECK(Near(Log10(model, &state, "c"), -0.01));
  // "b c" is but a step to "a b c", and "c" is the context of "c a".
  CHECK(state.length == 1);
  CHECK(Near(Log10(model, &state, "a"), -0.55));
  CHECK(state.length == 1);  // "c a" cannot matter
  CHECK(Near(Log10(model, &state, "</s>"), -0.3 - 1.5));
  CHECK(state.length == 0);
  CHECK(Near(Log10(model, &state, "d"), -1.0));
  CHECK(state.length == 1);
  CHECK(Near(Log10(model, &state, "b"), -0.1 - 0.7));
  // The step gives what backing off gives.
  CHECK(Near(Log10(model, &state, "c"), -0.2 - 0.8));
}

void TestStateMayBeScoredInPlaceOrNotAtAll() {
  const NgramModel model = Build(kArpa);
  const NgramModel::State context = model.BeginState();
  NgramModel::State next{};
  const NgramModel::WordId a = model.Find("a");
  const double score = model.Score(context, a, &next);
  NgramModel::State in_place = context;
  CHECK(model.Score(in_place, a, &in_place) == score && in_place == next);
  CHECK(model.Score(context, a, nullptr) == score);
  CHECK(model.FullScore(context, a, nullptr).ngram_length == 2);
  CHECK(context != next && model.EmptyState().length == 0);
}

void TestIdsAndStatesOfOtherModelsAreSafe() {
  const NgramModel model = Build(kArpa);
  NgramModel::State state{};
  state.length = 1000;
  for (NgramModel::WordId& word : state.words) word = std::numeric_limits<std::uint32_t>::max();
  CHECK(model.Score(state, 0xfffffff0U, &state) ==
        model.Score(model.EmptyState(), NgramModel::kUnknown, nullptr));
}

void TestPiecesDoNotMatter() {
  const NgramModel whole = Build(kArpa);
  for (const std::size_t piece : {1, 2, 7, 64}) {
    const NgramModel pieces = Build(kArpa, piece);
    CHECK(pieces.image().size == whole.image().size);
    CHECK(std::memcmp(pieces.image().bytes.get(), whole.image().bytes.get(), whole.image().size) ==
          0);
  }
}

void TestWhatKenLmTakes() {
  CHECK(Build("# a comment\n\n" + std::string(kArpa)).order() == 3);
  const NgramModel bare = Build(Replaced(Replaced(kArpa, "-1.0\t<unk>\t-0.1\n", ""), "1=6", "1=5"));
  CHECK(!bare.has_unknown() && bare.num_words() == 6 && bare.num_ngrams(1) == 5);
  CHECK(Near(bare.Score(bare.EmptyState(), 0, nullptr), -100 * kLn10));
  const NgramModel capitals = Build(Replaced(kArpa, "<unk>", "<UNK>"));
  CHECK(capitals.has_unknown() && capitals.Find("<UNK>") == 0);
  CHECK(Build(Replaced(kArpa, "a b c", "a b c\t0")).order() == 3);
  std::string windows;
  for (const char* c = kArpa; *c != '\0'; ++c)
    windows += *c == '\n' ? std::string("\r\n") : std::string(1, *c == '\t' ? ' ' : *c);
  const NgramModel crlf = Build(windows);
  CHECK(crlf.Find("c") != 0 && crlf.num_ngrams() == 12);
  std::string unfinished = kArpa;
  unfinished.pop_back();
  CHECK(Build(unfinished).order() == 3);
}

void TestReaderNamesFileAndLine() {
  const auto refused = [](const std::string& from, const std::string& to, const char* line,
                          const char* what) {
    const std::string message = Refusal(Replaced(kArpa, from, to));
    return Contains(message, std::string("lm.arpa, line ") + line + ": ") &&
           Contains(message, what) && !Contains(message, "\n");
  };
  CHECK(refused("\\data\\", "\x1f\x8b", "1", "gzip"));
  CHECK(refused("\\data\\", "iARPA", "1", "iARPA"));
  CHECK(refused("ngram 2=4", "ngram 3=4", "3", "ngram 2="));
  CHECK(refused("ngram 2=4", "ngram 2=four", "3", "four"));
  CHECK(refused("ngram 2=4", "ngram 2=99999999999", "3", "2^32"));
  CHECK(refused("1=6", "1=7", "13", "6 of the 7 1-grams"));
  CHECK(refused("1=6", "1=5", "12", "\\2-grams: is expected after the 5 1-grams"));
  CHECK(refused("3=2", "3=1", "22", "\\end\\ is expected"));
  CHECK(refused("3=2", "3=3", "23", "2 of the 3 3-grams"));
  CHECK(refused("\\3-grams:", "\\4-grams:", "20", "\\3-grams: is expected"));
  CHECK(refused("-0.7\tb", "nan\tb", "11", "\"nan\" is no log10 probability"));
  CHECK(refused("-0.7\tb", "-inf\tb", "11", "decimal number"));
  CHECK(refused("-0.7\tb", "-1e31\tb", "11", "too large"));
  CHECK(refused("-0.7\tb", "0.7\tb", "11", "positive"));
  CHECK(refused("-0.5\ta b\t-0.15", "-0.5\ta b\tx", "16", "\"x\" is no back-off weight"));
  CHECK(refused("a b c", "a b c\t-0.1", "22", "highest order"));
  CHECK(refused("a b c", "a b", "22", "3 words"));
  CHECK(refused("a b c", "a d c", "22", "\"d\" is not among the 1-grams"));
  CHECK(refused("a b c", "b a c", "22", "the first 2 words of this 3-gram"));
  CHECK(refused("a b c", "<s> a b", "22", "on line 21, too"));
  CHECK(refused("c\t0", "b", "12", "listed twice"));
  CHECK(refused("-1.5\t</s>", "-1.5\t</S>", "12", "have no </s>"));
  CHECK(refused("<s>\t-0.5", "<S>\t-0.5", "12", "have no <s>"));
  CHECK(refused("\\end\\\n", "\\end\\\nmore\n", "25", "nothing may follow"));
  CHECK(Contains(Refusal(std::string(2 << 20, 'x')), "line 1: longer than"));
  CHECK(Contains(Refusal(""), "line 1: the file ends before \\end\\"));
  std::string six = "\\data\\\n";
  for (int i = 1; i <= 7; ++i) six += "ngram " + std::to_string(i) + "=1\n";
  CHECK(Contains(Refusal(six), "line 8: models of up to 6-grams"));
}

void TestAFileThatEndsAnywhereIsRefused() {
  const std::string text = kArpa;
  // The last cut leaves out the final line end only.
  for (std::size_t size = 0; size + 1 < text.size(); ++size) {
    CHECK(Contains(Refusal(text.substr(0, size)), "lm.arpa, line "));
  }
}

void TestModelsOfOneOrderHaveNoStates() {
  const NgramModel model =
      Build("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\t-3\n-2 </s>\n-0.5 w\n\\end\\");
  CHECK(model.order() == 1 && model.BeginState().length == 0);
  NgramModel::State state = model.BeginState();
  CHECK(Near(Log10(model, &state, "w"), -0.5) && Near(Log10(model, &state, "<s>"), -1));
  CHECK(state.length == 0);
}

std::shared_ptr<std::vector<std::uint64_t>> Copied(const NgramImage& image) {
  auto copy = std::make_shared<std::vector<std::uint64_t>>((image.size + 7) / 8);
  std::memcpy(copy->data(), image.bytes.get(), image.size);
  return copy;
}

void QueryAll(const NgramModel& model) {
  std::vector<NgramModel::State> states = {model.EmptyState(), model.BeginState()};
  for (std::size_t i = 0; i < states.size() && states.size() < 40; ++i) {
    for (const char* word : {"a", "b", "c", "</s>", "nothing"}) {
      NgramModel::State next{};
      CHECK(std::isfinite(model.Score(states[i], model.Find(word), &next)));
      states.push_back(next);
    }
  }
}

void TestEveryDamagedByteIsFound() {
  const NgramImage kept = Build(kArpa).image();
  for (std::size_t at = 0; at < kept.size; ++at) {
    const auto copy = Copied(kept);
    char* bytes = reinterpret_cast<char*>(copy->data());
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    const std::string message =
        Message<std::invalid_argument>([&] { CheckNgramImage(bytes, kept.size, "lm.voxlm"); });
    CHECK(Contains(message, "lm.voxlm: ") && !Contains(message, "\n"));
  }
  for (std::size_t size = 0; size < kept.size; ++size) {
    Message<std::invalid_argument>([&] { CheckNgramImage(kept.bytes.get(), size, "lm.voxlm"); });
  }
}

void TestImagesOfOthersAreToldApart() {
  const auto told = [](std::size_t at, std::uint32_t value, const char* what) {
    const NgramImage image = Build(kArpa).image();
    const auto copy = Copied(image);
    char* bytes = reinterpret_cast<char*>(copy->data());
    std::memcpy(bytes + at, &value, sizeof(value));
    return Contains(
        Message<std::invalid_argument>([&] { CheckNgramImage(bytes, image.size, "lm.voxlm"); }),
        what);
  };
  CHECK(told(offsetof(NgramHeader, magic), 0x46454947, "not a .voxlm"));
  CHECK(told(offsetof(NgramHeader, byte_order), 0x04030201, "other byte order"));
  CHECK(told(offsetof(NgramHeader, version), 2, "another version"));
  CHECK(told(offsetof(NgramHeader, size), 8, "truncated"));
}

void TestABuilderIsAsNewAfterwards() {
  NgramBuilder builder("lm.arpa");
  for (int i = 0; i < 2; ++i) {
    builder.Feed(kArpa);
    CHECK(builder.Finish(5, 7).num_ngrams() == 12);
  }
  CHECK(Contains(Message<std::invalid_argument>([&] { builder.Finish(); }), "lm.arpa, line 1: "));
}

void TestForgedImagesAreRefusedOrSafe() {
  const NgramImage image = Build(kArpa).image();
  std::mt19937_64 random(7);
  const std::uint32_t values[] = {0,           1,           2,        7,          0x7fffffffU,
                                  0x80000000U, 0xfffffffeU, kNoIndex, 0x7fc00000U /* NaN */};
  std::size_t accepted = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto copy = Copied(image);
    char* bytes = reinterpret_cast<char*>(copy->data());
    for (std::uint64_t change = random() % 3 + 1; change > 0; --change) {
      const std::size_t at = random() % (image.size / 4) * 4;
      const std::uint32_t value = random() % 4 == 0 ? static_cast<std::uint32_t>(random())
                                                    : values[random() % std::size(values)];
      std::memcpy(bytes + at, &value, sizeof(value));
    }
    // As somebody who means harm would.
    const std::uint64_t checksum = NgramChecksum(bytes, image.size);
    std::memcpy(bytes + offsetof(NgramHeader, checksum), &checksum, sizeof(checksum));
    try {
      CheckNgramImage(bytes, image.size, "lm.voxlm");
    } catch (const std::invalid_argument&) {
      continue;
    }
    ++accepted;
    QueryAll(NgramModel({std::shared_ptr<const char>(copy, bytes), image.size}));
  }
  CHECK(accepted > 0);  // or else nothing was tried
}

void TestMappedModelIsTheModel() {
  const NgramModel model = Build(kArpa);
  std::FILE* file = std::tmpfile();
  CHECK(file != nullptr);
  CHECK(std::fwrite(model.image().bytes.get(), 1, model.image().size, file) == model.image().size);
  CHECK(std::fflush(file) == 0);
  NgramModel::State state{};
  {
    const NgramModel mapped(MapNgramImage(fileno(file), "lm.voxlm"));
    std::fclose(file);
    state = mapped.BeginState();
    CHECK(Near(Log10(mapped, &state, "a"), -0.4) && mapped.num_ngrams() == 12);
    QueryAll(mapped);
  }
  std::FILE* empty = std::tmpfile();
  CHECK(Contains(Message<std::invalid_argument>([&] { MapNgramImage(fileno(empty), "lm.voxlm"); }),
                 "lm.voxlm: this is not a .voxlm n-gram model"));
  std::fclose(empty);
}

void TestDecimals() {
  CHECK(ParseDecimal("-2.5") == -2.5 && ParseDecimal("+1e-3") == 1e-3 && ParseDecimal(".5") == 0.5);
  CHECK(ParseDecimal("7.") == 7.0 && ParseDecimal("0.30103") == 0.30103);
  CHECK(Near(*ParseDecimal("0.1234567890123456789012345678901234567890"), 0.12345678901234568,
             1e-17));
  CHECK(Near(*ParseDecimal("123456789012345678901234567890") / 123456789012345678901234567890.0, 1,
             1e-15));
  CHECK(Near(*ParseDecimal("1e-300") * 1e300, 1, 1e-13));
  CHECK(ParseDecimal("1e-99999") == 0.0 && ParseDecimal("0e99999") == 0.0);
  CHECK(std::isinf(*ParseDecimal("1e99999")));
  for (const char* text :
       {"", "-", ".", "e5", "1e", "1e+", "1.2.3", "nan", "inf", "0x1", "1 ", " 1", "1,5", "--1"}) {
    CHECK(!ParseDecimal(text));
  }
}

}  // namespace
}  // namespace voxformer

int main() {
  voxformer::TestScoresWorkedOutByHand();
  voxformer::TestStateMayBeScoredInPlaceOrNotAtAll();
  voxformer::TestIdsAndStatesOfOtherModelsAreSafe();
  voxformer::TestPiecesDoNotMatter();
  voxformer::TestWhatKenLmTakes();
  voxformer::TestReaderNamesFileAndLine();
  voxformer::TestAFileThatEndsAnywhereIsRefused();
  voxformer::TestModelsOfOneOrderHaveNoStates();
  voxformer::TestEveryDamagedByteIsFound();
  voxformer::TestImagesOfOthersAreToldApart();
  voxformer::TestABuilderIsAsNewAfterwards();
  voxformer::TestForgedImagesAreRefusedOrSafe();
  voxformer::TestMappedModelIsTheModel();
  voxformer::TestDecimals();
  return 0;
}
