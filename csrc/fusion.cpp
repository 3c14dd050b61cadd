#include "fusion.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "refuse.h"

namespace voxformer {
namespace {

constexpr char kSpace = ' ';
const std::string kWordStart = "\xe2\x96\x81";  // SentencePiece's mark for a space

// The token's text with spaces for marks.
std::string WithSpaces(const std::string& token) {
  std::string text;
  for (std::size_t i = 0; i < token.size();) {
    if (token.compare(i, kWordStart.size(), kWordStart) == 0) {
      text.push_back(kSpace);
      i += kWordStart.size();
    } else {
      text.push_back(token[i++]);
    }
  }
  return text;
}

std::vector<std::int32_t> Symbols(const std::string& text) {
  std::vector<std::int32_t> symbols;
  for (const char c : text) symbols.push_back(static_cast<unsigned char>(c));
  return symbols;
}

// Sums of numbers up to this size can be taken off a score again.
constexpr double kLargest = 1e9;

void CheckNumber(const char* name, double value, double least) {
  if (value >= least && value <= kLargest) return;
  Refuse(name, " is ", value, "; it must be from ", least, " to ", kLargest);
}

// How a message calls it.
std::string NameOf(const Hotword& hotword) {
  if (!hotword.text.empty() || hotword.token_ids.empty()) return "hotword '" + hotword.text + "'";
  std::string name = "hotword (";
  for (const std::int32_t id : hotword.token_ids) name += std::to_string(id) + ", ";
  return name.substr(0, name.size() - 2) + ")";
}

}  // namespace

void FusionOptions::Validate() const {
  CheckNumber("lm_weight", lm_weight, 0.0);
  CheckNumber("unknown_word_bonus", unknown_word_bonus, -kLargest);
  CheckNumber("word_bonus", word_bonus, -kLargest);
}

FusionModel::FusionModel(std::shared_ptr<const NgramModel> language_model,
                         const std::vector<std::string>& tokens,
                         const std::vector<Hotword>& hotwords, const FusionOptions& options)
    : options_(options), language_model_(std::move(language_model)) {
  options_.Validate();
  if (tokens.empty() && (language_model_ || options_.word_bonus != 0.0)) {
    Refuse("a language model and word_bonus need the texts of the tokens");
  }
  AddTokens(tokens);
  if (!hotwords.empty()) AddHotwords(hotwords);
}

void FusionModel::AddTokens(const std::vector<std::string>& tokens) {
  tokens_.resize(tokens.size());
  const bool by_words = (language_model_ && !options_.lm_over_tokens) || options_.word_bonus != 0.0;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    Token& token = tokens_[id];
    std::string text = WithSpaces(tokens[id]);
    token.symbols = Symbols(text);
    token.begins_word = !text.empty() && text[0] == kSpace;
    words_have_edges_ = words_have_edges_ || token.begins_word;
    if (token.begins_word) text.erase(0, 1);
    const bool has_space = text.find(kSpace) != std::string::npos;
    words_within_tokens_ = words_within_tokens_ || has_space;
    if (by_words && has_space) {
      Refuse("token ", id, " ('", tokens[id],
             "') is of more than one word, which word_bonus and a language model over words cannot "
             "count",
             options_.word_bonus == 0.0 ? "; set lm_unit='token'" : "");
    }
    if (language_model_ && options_.lm_over_tokens) token.word = language_model_->Find(tokens[id]);
    token.text = std::move(text);
  }
}

void FusionModel::AddHotwords(const std::vector<Hotword>& hotwords) {
  bool is_spelled[256] = {};  // by some token
  for (const Token& token : tokens_) {
    for (const std::int32_t symbol : token.symbols) is_spelled[symbol] = true;
  }
  std::vector<HotwordAutomaton::Phrase> phrases;
  for (const Hotword& hotword : hotwords) {
    if (hotword.text.empty() && hotword.token_ids.empty()) Refuse(NameOf(hotword), " is empty");
    if (!(hotword.boost > 0.0 && hotword.boost <= kLargest)) {
      Refuse(NameOf(hotword), " has boost ", hotword.boost, "; it must be above 0 and at most ",
             kLargest, ", in natural-log units");
    }
    for (const std::int32_t id : hotword.token_ids) {
      if (id < 0) Refuse(NameOf(hotword), " has id ", id, "; ids begin with 0");
    }
    for (const std::int32_t symbol : Symbols(hotword.text)) {
      if (tokens_.empty() || is_spelled[symbol]) continue;
      Refuse(NameOf(hotword),
             " has a character that no token has; is it written as the tokens are?");
    }
    HotwordAutomaton::Phrase phrase;
    phrase.boost = hotword.boost;
    if (tokens_.empty()) {
      phrase.symbols = hotword.token_ids;
    } else {
      phrase.symbols = Symbols(words_have_edges_ ? kSpace + hotword.text + kSpace : hotword.text);
      phrase.edge = words_have_edges_ ? 1 : 0;
    }
    phrases.push_back(std::move(phrase));
  }
  hotwords_.emplace(phrases);
  if (tokens_.empty()) {
    for (const Hotword& hotword : hotwords) {
      boostable_.insert(boostable_.end(), hotword.token_ids.begin(), hotword.token_ids.end());
    }
    std::sort(boostable_.begin(), boostable_.end());
    boostable_.erase(std::unique(boostable_.begin(), boostable_.end()), boostable_.end());
  } else {
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (!tokens_[id].symbols.empty()) boostable_.push_back(static_cast<std::int32_t>(id));
    }
  }
  boosted_ = std::vector<std::atomic<const std::vector<BoostedToken>*>>(hotwords_->size());
}

FusionModel::HotwordState FusionModel::Follow(HotwordState state, std::int32_t token,
                                              double* completed) const noexcept {
  if (tokens_.empty()) {
    state = hotwords_->Next(state, token);
    *completed = hotwords_->Completed(state);
    return state;
  }
  *completed = 0.0;
  const std::vector<std::int32_t>& symbols = tokens_[static_cast<std::size_t>(token)].symbols;
  for (std::size_t k = 0; k < symbols.size(); ++k) {
    state = hotwords_->Next(state, symbols[k]);
    *completed += hotwords_->Completed(state);
    // Hotwords begin with a space, and none is left in the token.
    if (state == HotwordAutomaton::kStart && words_have_edges_ && !words_within_tokens_) break;
  }
  return state;
}

double FusionModel::HotwordGain(HotwordState state, std::int32_t token) const noexcept {
  double completed = 0.0;
  const HotwordState next = Follow(state, token, &completed);
  return completed + hotwords_->Lent(next) - hotwords_->Lent(state);
}

const std::vector<BoostedToken>& FusionModel::BoostedAfter(HotwordState state) const {
  std::atomic<const std::vector<BoostedToken>*>& slot = boosted_[static_cast<std::size_t>(state)];
  if (const auto* known = slot.load(std::memory_order_acquire)) return *known;
  const std::lock_guard<std::mutex> lock(boosted_mutex_);
  if (const auto* known = slot.load(std::memory_order_relaxed)) return *known;
  auto boosted = std::make_unique<std::vector<BoostedToken>>();
  for (const std::int32_t token : boostable_) {
    const double gain = HotwordGain(state, token);
    if (gain > 0.0) boosted->push_back({token, gain});
  }
  boosted_owner_.push_back(std::move(boosted));
  slot.store(boosted_owner_.back().get(), std::memory_order_release);
  return *boosted_owner_.back();
}

void CheckVocabulary(const FusionModel& fusion, std::size_t vocab) {
  if (fusion.num_tokens() == 0 || fusion.num_tokens() >= vocab) return;
  Refuse("log_probs has ", vocab, " columns, but the language model and hotwords were set up for ",
         fusion.num_tokens(), " tokens");
}

PrefixScorer::PrefixScorer(std::shared_ptr<const FusionModel> model)
    : model_(std::move(model)),
      // No ln p is above 0, see Ask().
      largest_gain_(std::max(0.0, model_->options_.word_bonus)) {
  Start();
}

void PrefixScorer::Start() {
  entries_.assign(1, Entry());
  Entry& root = entries_[0];
  if (model_->language_model_) root.context = model_->language_model_->BeginState();
  // The beginning is an edge of the first word, whether or not its token begins with a space.
  if (model_->hotwords_ && model_->words_have_edges_) {
    root.hotword = model_->hotwords_->Next(HotwordAutomaton::kStart, kSpace);
  }
}

double PrefixScorer::Gain(Node node, std::int32_t token) {
  Entry& entry = At(node);
  const Step step = StepTo(&entry, token);
  double gain = model_->options_.lm_weight * step.lm_score + step.bonus_score;
  if (model_->hotwords_) gain += model_->HotwordGain(entry.hotword, token);
  return gain;
}

double PrefixScorer::Gain(Node node, const BoostedToken& boosted) {
  const Step step = StepTo(&At(node), boosted.token);
  return model_->options_.lm_weight * step.lm_score + step.bonus_score + boosted.gain;
}

Span<const BoostedToken> PrefixScorer::BoostedTokens(Node node) const {
  if (!model_->hotwords_) return {};
  const std::vector<BoostedToken>& boosted = model_->BoostedAfter(At(node).hotword);
  return {boosted.data(), boosted.size()};
}

// The language model's part of a token and the bonus of the word that it ends.
PrefixScorer::Step PrefixScorer::StepTo(Entry* entry, std::int32_t token) {
  Step step;
  step.context = entry->context;
  if (model_->tokens_.empty()) return step;
  const FusionModel::Token& properties = model_->tokens_[static_cast<std::size_t>(token)];
  const bool lm_over_tokens = model_->language_model_ && model_->options_.lm_over_tokens;
  if (lm_over_tokens) step.lm_score = Ask(entry->context, properties.word, &step.context);
  step.begins_word = properties.begins_word;
  if (!properties.begins_word || !entry->word_has_text) return step;
  step.bonus_score = model_->options_.word_bonus;
  if (model_->language_model_ && !lm_over_tokens) {
    ScoreWord(entry);
    step.lm_score = entry->word_lm_score;
    step.context = entry->after_word;
  }
  return step;
}

void PrefixScorer::ScoreWord(Entry* entry) {
  if (entry->word_is_scored) return;
  word_.clear();
  // Tokens from the last to the first, each put before what is there.
  const Entry* at = entry;
  for (std::int32_t k = 0; k < entry->word_tokens; ++k, at = &At(at->parent)) {
    word_.insert(0, model_->tokens_[static_cast<std::size_t>(at->token)].text);
  }
  entry->word_lm_score =
      Ask(entry->context, model_->language_model_->Find(word_), &entry->after_word);
  entry->word_is_scored = true;
}

// ln p of a word. A file's rounding can make it more than certain, which the search's bound on what
// a token can earn does not allow for.
double PrefixScorer::Ask(const NgramModel::State& context, NgramModel::WordId word,
                         NgramModel::State* after) const noexcept {
  const double log_prob = std::min(0.0, model_->language_model_->Score(context, word, after));
  if (word != NgramModel::kUnknown) return log_prob;
  return std::min(0.0, log_prob + model_->options_.unknown_word_bonus);
}

void PrefixScorer::Enter(Node child, Node parent, std::int32_t token) {
  if (entries_.size() <= static_cast<std::size_t>(child)) {
    entries_.resize(static_cast<std::size_t>(child) + 1);
  }
  Entry& from = At(parent);
  const Step step = StepTo(&from, token);
  Entry entry;
  entry.lm_score = from.lm_score + step.lm_score;
  entry.bonus_score = from.bonus_score + step.bonus_score;
  entry.context = step.context;
  entry.parent = parent;
  entry.token = token;
  entry.word_tokens = step.begins_word ? 1 : from.word_tokens + 1;
  if (!model_->tokens_.empty()) {
    const bool has_text = !model_->tokens_[static_cast<std::size_t>(token)].text.empty();
    entry.word_has_text = has_text || (from.word_has_text && !step.begins_word);
  }
  if (model_->hotwords_) {
    double completed = 0.0;
    entry.hotword = model_->Follow(from.hotword, token, &completed);
    entry.bonus_score += completed;
  }
  At(child) = entry;
}

double PrefixScorer::Sum(Node node) const noexcept {
  const Entry& entry = At(node);
  const double lent = model_->hotwords_ ? model_->hotwords_->Lent(entry.hotword) : 0.0;
  return model_->options_.lm_weight * entry.lm_score + entry.bonus_score + lent;
}

PrefixScorer::Parts PrefixScorer::AtEnd(Node node) {
  Entry& entry = At(node);
  Parts parts = {entry.lm_score, entry.bonus_score};
  NgramModel::State context = entry.context;
  if (entry.word_has_text) {
    parts.bonus_score += model_->options_.word_bonus;
    if (model_->language_model_ && !model_->options_.lm_over_tokens) {
      ScoreWord(&entry);
      parts.lm_score += entry.word_lm_score;
      context = entry.after_word;
    }
  }
  if (model_->language_model_) {
    parts.lm_score += Ask(context, model_->language_model_->end_id(), &context);
  }
  if (model_->hotwords_ && model_->words_have_edges_) {
    parts.bonus_score +=
        model_->hotwords_->Completed(model_->hotwords_->Next(entry.hotword, kSpace));
  }
  return parts;
}

}  // namespace voxformer
