#include "arpa_reader.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <utility>

#include "decimal.h"

namespace voxformer {
namespace {

// What KenLM gives to <unk> where the file does not list it.
constexpr float kMissingUnknownLog10Prob = -100.0F;

// Sums of a few of these are finite. -99, which stands for a probability of zero, is far below.
constexpr double kLargestLog10 = 1e30;

// No line is longer; what has none is no text.
constexpr std::size_t kMaxLine = std::size_t{1} << 20;

// As in KenLM: other white space, such as a no-break space, is a part of words.
bool IsSpace(char c) noexcept { return c == ' ' || c == '\t' || c == '\r'; }

std::string_view StripRight(std::string_view text) noexcept {
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

bool StartsWith(std::string_view text, std::string_view start) noexcept {
  return text.substr(0, start.size()) == start;
}

std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 60;
  if (text.size() <= kShown) return '"' + std::string(text) + '"';
  return '"' + std::string(text.substr(0, kShown)) + "...\"";
}

std::string Grams(std::size_t order) { return std::to_string(order) + "-grams"; }

// Decimal digits at the front of `text`, which are taken from it. False if there are none or the
// number is 2^32 - 1 or more.
bool TakeCount(std::string_view* text, std::uint64_t* value) noexcept {
  std::size_t length = 0;
  *value = 0;
  for (; length < text->size() && (*text)[length] >= '0' && (*text)[length] <= '9'; ++length) {
    *value = *value * 10 + static_cast<std::uint64_t>((*text)[length] - '0');
    if (*value >= kNoIndex) return false;
  }
  text->remove_prefix(length);
  return length > 0;
}

}  // namespace

NgramVocabulary::NgramVocabulary() : word_begin_(1, 0), buckets_(1024, kNoIndex) { Add("<unk>"); }

VocabularyView NgramVocabulary::view() const noexcept {
  return {text_.data(), word_begin_.data(), buckets_.data(), buckets_.size() - 1};
}

std::uint32_t NgramVocabulary::Find(std::string_view word) const noexcept {
  if (word == "<UNK>") return 0;
  return buckets_[view().Bucket(word)];
}

std::uint32_t NgramVocabulary::Add(std::string_view word) {
  const std::uint32_t id = size();
  const std::uint64_t bucket = view().Bucket(word);
  text_.insert(text_.end(), word.begin(), word.end());
  word_begin_.push_back(static_cast<std::uint32_t>(text_.size()));
  buckets_[bucket] = id;
  // A table at most half full keeps the probes short.
  if (2 * static_cast<std::size_t>(size()) > buckets_.size()) Grow();
  return id;
}

void NgramVocabulary::Grow() {
  buckets_.assign(2 * buckets_.size(), kNoIndex);
  for (std::uint32_t id = 0; id < size(); ++id) buckets_[view().Bucket(view().word(id))] = id;
}

void ArpaModel::Refuse(std::size_t line, const std::string& what) const {
  throw std::invalid_argument(name + ", line " + std::to_string(line) + ": " + what);
}

ArpaReader::ArpaReader(std::string name) { model_.name = std::move(name); }

void ArpaReader::Feed(std::string_view bytes) {
  while (true) {
    const std::size_t end = bytes.find('\n');
    if (pending_.size() + std::min(end, bytes.size()) > kMaxLine) {
      ++line_;
      Refuse("longer than a line of an ARPA file can be; is this one?");
    }
    if (end == std::string_view::npos) break;
    ++line_;
    if (pending_.empty()) {
      ReadLine(bytes.substr(0, end));
    } else {
      pending_.append(bytes.substr(0, end));
      ReadLine(pending_);
      pending_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
  pending_.append(bytes);
}

ArpaModel ArpaReader::Finish() {
  ++line_;
  if (!pending_.empty()) ReadLine(pending_);
  if (expect_ != Expect::kNothing) Refuse("the file ends before \\end\\" + Progress());
  ArpaModel whole = std::move(model_);
  *this = ArpaReader(whole.name);
  return whole;
}

std::string ArpaReader::Progress() const {
  if (order_ == 0 || order_ > model_.counts.size()) return "";
  return " (" + std::to_string(read_) + " of the " + std::to_string(model_.counts[order_ - 1]) +
         ' ' + Grams(order_) + " of the header were read)";
}

void ArpaReader::ReadLine(std::string_view line) {
  if (expect_ == Expect::kNgram) {
    ReadNgram(line);
    return;
  }
  line = StripRight(line);
  switch (expect_) {
    case Expect::kData:
      if (line == "\\data\\") {
        expect_ = Expect::kCount;
      } else if (StartsWith(line, "\x1f\x8b")) {
        Refuse("this is gzip data; it must be decompressed first");
      } else if (!line.empty() && line[0] != '#') {
        // Text before the header is in the format, but then any file would be one.
        Refuse(
            "an ARPA file begins with \\data\\ (after lines that are empty or begin with #), not " +
            Quoted(line));
      }
      break;
    case Expect::kCount:
      if (line.empty()) {
        BeginSections();
      } else if (line[0] == '\\' && !model_.counts.empty()) {
        BeginSections();
        ReadSection(line);
      } else {
        ReadCount(line);
      }
      break;
    case Expect::kSection:
      if (!line.empty()) ReadSection(line);
      break;
    case Expect::kEnd:
      if (line == "\\end\\") {
        expect_ = Expect::kNothing;
      } else if (!line.empty()) {
        Refuse("\\end\\ is expected after the " + std::to_string(model_.counts.back()) + ' ' +
               Grams(model_.counts.size()) + " of the header, not " + Quoted(line));
      }
      break;
    case Expect::kNothing:
      if (!line.empty()) Refuse("nothing may follow \\end\\, but there is " + Quoted(line));
      break;
    case Expect::kNgram:
      break;
  }
}

void ArpaReader::ReadCount(std::string_view line) {
  constexpr std::string_view kStart = "ngram ";
  const std::size_t order = model_.counts.size() + 1;
  std::string_view rest = line;
  std::uint64_t length = 0;
  std::uint64_t count = 0;
  bool sound = StartsWith(rest, kStart);
  if (sound) {
    rest.remove_prefix(kStart.size());
    sound = TakeCount(&rest, &length) && length == order && StartsWith(rest, "=");
  }
  if (sound) {
    rest.remove_prefix(1);
    while (!rest.empty() && IsSpace(rest.front())) rest.remove_prefix(1);
    sound = TakeCount(&rest, &count) && rest.empty();
  }
  if (!sound) {
    Refuse("\"ngram " + std::to_string(order) + "=\" and a count below 2^32 is expected, not " +
           Quoted(line));
  }
  if (order > kMaxNgramOrder) {
    Refuse("models of up to " + Grams(kMaxNgramOrder) + " are supported, and this has " +
           Grams(order));
  }
  model_.counts.push_back(count);
}

void ArpaReader::BeginSections() {
  if (model_.counts.empty()) Refuse("the header has no counts (\"ngram 1=...\")");
  const std::size_t order = model_.counts.size();
  model_.tables.resize(order);
  model_.first_line.resize(order);
  // <unk>, which the 1-grams may replace.
  model_.tables[0].log10_probs.push_back(kMissingUnknownLog10Prob);
  model_.tables[0].backoffs.push_back(kNoExtension);
  order_ = 1;
  expect_ = Expect::kSection;
}

void ArpaReader::ReadSection(std::string_view line) {
  const std::string expected = '\\' + Grams(order_) + ':';
  if (line != expected) {
    const std::string before = order_ == 1
                                   ? ""
                                   : " after the " + std::to_string(model_.counts[order_ - 2]) +
                                         ' ' + Grams(order_ - 1) + " of the header";
    Refuse(expected + " is expected" + before + ", not " + Quoted(line));
  }
  read_ = 0;
  model_.first_line[order_ - 1] = line_ + 1;
  expect_ = Expect::kNgram;
  if (model_.counts[order_ - 1] == 0) EndSection();
}

void ArpaReader::EndSection() {
  if (order_ == 1) {
    for (const char* marker : {"<s>", "</s>"}) {
      if (model_.vocabulary.Find(marker) != kNoIndex) continue;
      Refuse(std::string("the 1-grams end here and have no ") + marker +
             "; without it sentences have no scores");
    }
  }
  ++order_;
  expect_ = order_ > model_.counts.size() ? Expect::kEnd : Expect::kSection;
}

float ArpaReader::ReadNumber(std::string_view field, const char* what) const {
  const std::optional<double> value = ParseDecimal(field);
  if (!value) Refuse(Quoted(field) + " is no " + what + "; a decimal number is expected");
  if (std::fabs(*value) > kLargestLog10) Refuse(Quoted(field) + " is too large for a " + what);
  return static_cast<float>(*value);
}

void ArpaReader::ReadNgram(std::string_view line) {
  fields_.clear();
  for (std::size_t at = 0; at < line.size();) {
    if (IsSpace(line[at])) {
      ++at;
      continue;
    }
    const std::size_t begin = at;
    while (at < line.size() && !IsSpace(line[at])) ++at;
    fields_.push_back(line.substr(begin, at - begin));
  }
  const std::size_t highest = model_.counts.size();
  if (fields_.empty() || fields_[0][0] == '\\') {
    Refuse("a line of the " + Grams(order_) + " is expected" + Progress() + ", not " +
           Quoted(StripRight(line)));
  }
  if (fields_.size() != order_ + 1 && fields_.size() != order_ + 2) {
    Refuse("a line of the " + Grams(order_) + " is a log10 probability, " + std::to_string(order_) +
           " words and perhaps a back-off weight, not " + std::to_string(fields_.size()) +
           " fields");
  }
  const float log10_prob = ReadNumber(fields_[0], "log10 probability");
  if (log10_prob > 0.0F) {
    Refuse("the log10 probability " + std::string(fields_[0]) + " is positive");
  }
  float backoff = kNoExtension;
  if (fields_.size() == order_ + 2) {
    backoff = ReadNumber(fields_.back(), "back-off weight");
    if (order_ == highest && order_ > 1 && backoff != 0.0F) {
      Refuse("n-grams of the highest order have no back-off weight, and this has " +
             Quoted(fields_.back()));
    }
    // Whether it is the context of another is found when all are known.
    if (backoff == 0.0F) backoff = kNoExtension;
  }
  if (order_ == 1) {
    ReadUnigram(log10_prob, backoff);
  } else {
    NgramTable& table = model_.tables[order_ - 1];
    for (std::size_t i = order_; i > 0; --i) {
      const std::uint32_t id = model_.vocabulary.Find(fields_[i]);
      if (id == kNoIndex) Refuse(Quoted(fields_[i]) + " is not among the 1-grams");
      table.words.push_back(id);
    }
    table.log10_probs.push_back(log10_prob);
    if (order_ < highest) table.backoffs.push_back(backoff);
  }
  if (++read_ == model_.counts[order_ - 1]) EndSection();
}

void ArpaReader::ReadUnigram(float log10_prob, float backoff) {
  NgramTable& table = model_.tables[0];
  const std::uint32_t id = model_.vocabulary.Find(fields_[1]);
  if (id == 0 && !model_.has_unknown) {
    model_.has_unknown = true;
    table.log10_probs[0] = log10_prob;
    table.backoffs[0] = backoff;
    return;
  }
  if (id != kNoIndex) Refuse(Quoted(fields_[1]) + " is listed twice");
  if (model_.vocabulary.text().size() + fields_[1].size() >= kNoIndex ||
      model_.vocabulary.size() >= kNoIndex - 1) {
    Refuse("the words have more than 4 GiB of text");
  }
  model_.vocabulary.Add(fields_[1]);
  table.log10_probs.push_back(log10_prob);
  table.backoffs.push_back(backoff);
}

}  // namespace voxformer
