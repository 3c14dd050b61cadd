#include "fusion.h"

#include <algorithm>
#include <cmath>
#include <limits>
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

// With a lexicon: what is lent is no less than this, so that the largest gain stays moderate where
// a model has no probability for unknown words; and choices among homophones that a prefix keeps.
constexpr double kLeastAhead = -20.0;
constexpr std::size_t kMostHistories = 8;

// Goes on with a hash of text (FNV-1a).
std::uint64_t Spell(std::uint64_t hash, const std::string& text) noexcept {
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  }
  return hash;
}

// A hash of a hash and a number (the steps of SplitMix64, Steele et al. 2014).
std::uint64_t Mix(std::uint64_t hash, std::uint64_t number) noexcept {
  std::uint64_t x = hash * 0x9e3779b97f4a7c15ULL + number + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
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
                         const std::vector<Hotword>& hotwords, const FusionOptions& options,
                         std::shared_ptr<const Lexicon> lexicon)
    : options_(options), language_model_(std::move(language_model)), lexicon_(std::move(lexicon)) {
  options_.Validate();
  if (tokens.empty() && (language_model_ || lexicon_ || options_.word_bonus != 0.0)) {
    Refuse("a language model, a lexicon and word_bonus need the texts of the tokens");
  }
  if (lexicon_ && options_.lm_over_tokens) {
    Refuse("a lexicon is for a language model over words, not over tokens");
  }
  AddTokens(tokens);
  if (lexicon_) AddLexicon();
  if (!hotwords.empty()) AddHotwords(hotwords);
}

void FusionModel::AddTokens(const std::vector<std::string>& tokens) {
  tokens_.resize(tokens.size());
  const bool by_words =
      (language_model_ && !options_.lm_over_tokens) || lexicon_ || options_.word_bonus != 0.0;
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
             "') is of more than one word, which word_bonus, a lexicon and a language model over "
             "words cannot count",
             options_.word_bonus == 0.0 && !lexicon_ ? "; set lm_unit='token'" : "");
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

// What the language model says of each word by itself, and the best of that by node.
void FusionModel::AddLexicon() {
  if (!words_have_edges_) Refuse("a lexicon needs tokens that begin with a space, as words do");
  bool is_spelled[256] = {};  // by some token
  for (const Token& token : tokens_) {
    for (const char c : token.text) is_spelled[static_cast<unsigned char>(c)] = true;
  }
  const auto spells = [&](std::int32_t entry) {
    const std::string& spelling = lexicon_->spelling(entry);
    return std::all_of(spelling.begin(), spelling.end(),
                       [&](char c) { return is_spelled[static_cast<unsigned char>(c)]; });
  };
  std::vector<std::int32_t> unspelled;
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(lexicon_->num_entries()); ++i) {
    if (!spells(i)) unspelled.push_back(i);
  }
  // Words may well have sounds that no training text had, and of a small corpus most do.
  if (100 * (lexicon_->num_entries() - unspelled.size()) < lexicon_->num_entries()) {
    Refuse(unspelled.size(), " of the lexicon's ", lexicon_->num_entries(), " spellings, such as '",
           lexicon_->spelling(unspelled[0]),
           "', have characters that no token has; is it of this model's voice?");
  }
  const std::size_t entries = lexicon_->num_entries();
  std::vector<double> alone(entries, 0.0);
  lexicon_words_.resize(entries, NgramModel::kUnknown);
  for (std::size_t i = 0; i < entries && language_model_; ++i) {
    const NgramModel::WordId word =
        language_model_->Find(lexicon_->word(static_cast<std::int32_t>(i)));
    lexicon_words_[i] = word;
    NgramModel::State after{};
    alone[i] = language_model_->Score(language_model_->EmptyState(), word, &after);
    if (word == NgramModel::kUnknown) alone[i] += options_.unknown_word_bonus;
  }
  best_ahead_.assign(lexicon_->num_nodes(), -1);
  const auto offer = [&](std::size_t node, std::int32_t entry) {
    std::int32_t& best = best_ahead_[node];
    const double log_prob = alone[static_cast<std::size_t>(entry)];
    // Of equals the earlier one.
    if (best < 0 || log_prob > alone[static_cast<std::size_t>(best)] ||
        (log_prob == alone[static_cast<std::size_t>(best)] && entry < best)) {
      best = entry;
    }
  };
  for (std::size_t n = lexicon_->num_nodes(); n-- > 0;) {
    const Lexicon::Node node = static_cast<Lexicon::Node>(n);
    for (const std::int32_t entry : lexicon_->Ending(node)) offer(n, entry);
    const Lexicon::Node parent = lexicon_->parent(node);
    if (parent != Lexicon::kNone) offer(static_cast<std::size_t>(parent), best_ahead_[n]);
  }
  ahead_.reserve(best_ahead_.size());
  for (const std::int32_t entry : best_ahead_) {
    ahead_.push_back(std::clamp(alone[static_cast<std::size_t>(entry)], kLeastAhead, 0.0));
    least_ahead_ = std::min(least_ahead_, ahead_.back());
  }
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
  if (model_->lexicon_ && model_->language_model_) {
    // A word may be more probable after those before it than what was lent to it.
    const double least = model_->least_ahead_;
    largest_gain_ = std::max(0.0, model_->options_.word_bonus - model_->options_.lm_weight * least);
  }
  Start();
}

void PrefixScorer::Start() {
  entries_.assign(1, Entry());
  Entry& root = entries_[0];
  if (model_->language_model_) root.context = model_->language_model_->BeginState();
  histories_.clear();
  if (model_->lexicon_) {
    histories_.emplace_back();
    histories_[0].context = root.context;
  }
  // The beginning is an edge of the first word, whether or not its token begins with a space.
  if (model_->hotwords_ && model_->words_have_edges_) {
    root.hotword = model_->hotwords_->Next(HotwordAutomaton::kStart, kSpace);
  }
}

double PrefixScorer::Gain(Node node, std::int32_t token) {
  Entry& entry = At(node);
  if (CutsWord(entry, token)) return -std::numeric_limits<double>::infinity();
  const Step step = StepTo(&entry, token);
  double gain = GainOf(entry, step);
  if (model_->hotwords_) gain += model_->HotwordGain(entry.hotword, token);
  return gain;
}

double PrefixScorer::Gain(Node node, const BoostedToken& boosted) {
  Entry& entry = At(node);
  if (CutsWord(entry, boosted.token)) return -std::numeric_limits<double>::infinity();
  const Step step = StepTo(&entry, boosted.token);
  return GainOf(entry, step) + boosted.gain;
}

std::uint64_t PrefixScorer::StateAfter(Node node, std::int32_t token) {
  Entry& entry = At(node);
  HotwordAutomaton::State hotword = entry.hotword;
  double completed = 0.0;
  if (model_->hotwords_) hotword = model_->Follow(hotword, token, &completed);
  return StateOf(token, SpellingAfter(entry, token), hotword, StepTo(&entry, token).context);
}

// A hash of the word at the end, once `token` follows.
std::uint64_t PrefixScorer::SpellingAfter(const Entry& entry, std::int32_t token) const noexcept {
  if (model_->tokens_.empty()) return kNothingSpelled;
  const FusionModel::Token& properties = model_->tokens_[static_cast<std::size_t>(token)];
  return Spell(properties.begins_word ? kNothingSpelled : entry.spelling, properties.text);
}

std::uint64_t PrefixScorer::StateOf(std::int32_t token, std::uint64_t spelling,
                                    HotwordAutomaton::State hotword,
                                    const NgramModel::State& context) noexcept {
  std::uint64_t state = Mix(spelling, static_cast<std::uint64_t>(hotword));
  state = Mix(state, static_cast<std::uint64_t>(token));
  for (std::uint32_t i = 0; i < context.length; ++i) {
    state = Mix(state, static_cast<std::uint64_t>(context.words[i]));
  }
  return state;
}

double PrefixScorer::LargestGain(Node node) {
  if (!model_->lexicon_) return largest_gain_;
  // Within a word what is lent only becomes less.
  Entry& entry = At(node);
  if (!entry.word_has_text || model_->lexicon_->Ending(entry.spelled).empty()) return 0.0;
  ScoreWord(&entry);
  const double ahead = Ahead(true, entry.spelled);
  return std::max(0.0, model_->options_.lm_weight * (entry.word_lm_score - ahead) +
                           model_->options_.word_bonus);
}

// Whether `token` begins a word where the lexicon ends none, which is not worth scoring.
bool PrefixScorer::CutsWord(const Entry& entry, std::int32_t token) const noexcept {
  return model_->lexicon_ && entry.word_has_text &&
         model_->tokens_[static_cast<std::size_t>(token)].begins_word &&
         model_->lexicon_->Ending(entry.spelled).empty();
}

// What a step that cuts no word adds, without hotwords.
double PrefixScorer::GainOf(const Entry& entry, const Step& step) const noexcept {
  double lm_score = step.lm_score;
  if (model_->lexicon_) {
    if (step.spelled == Lexicon::kNone) return -std::numeric_limits<double>::infinity();
    // At the root nothing is spelled yet, and all else has a word's text.
    lm_score += Ahead(step.spelled != Lexicon::kRoot, step.spelled) -
                Ahead(entry.word_has_text, entry.spelled);
  }
  return model_->options_.lm_weight * lm_score + step.bonus_score;
}

// What is lent to a word that is being spelled; the lexicon has one that begins so.
double PrefixScorer::Ahead(bool word_has_text, Lexicon::Node spelled) const noexcept {
  if (!word_has_text || !model_->lexicon_) return 0.0;
  return model_->ahead_[static_cast<std::size_t>(spelled)];
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
  step.ends_word = properties.begins_word && entry->word_has_text;
  if (model_->lexicon_) {
    const Lexicon::Node from = properties.begins_word ? Lexicon::kRoot : entry->spelled;
    step.spelled = model_->lexicon_->Follow(from, properties.text);
  }
  if (!step.ends_word) return step;
  step.bonus_score = model_->options_.word_bonus;
  if (model_->lexicon_ || (model_->language_model_ && !lm_over_tokens)) {
    ScoreWord(entry);
    step.lm_score = entry->word_lm_score;
    step.context = entry->after_word;
  }
  return step;
}

void PrefixScorer::ScoreWord(Entry* entry) {
  if (entry->word_is_scored) return;
  entry->word_is_scored = true;
  if (model_->lexicon_) return ScoreEntries(entry);
  word_.clear();
  // Tokens from the last to the first, each put before what is there.
  const Entry* at = entry;
  for (std::int32_t k = 0; k < entry->word_tokens; ++k, at = &At(at->parent)) {
    word_.insert(0, model_->tokens_[static_cast<std::size_t>(at->token)].text);
  }
  entry->word_lm_score =
      Ask(entry->context, model_->language_model_->Find(word_), &entry->after_word);
}

// The same with a lexicon: each word that is spelled so after each of the histories. One that is
// not there yet counts as unknown, and is read as the most probable that begins so.
void PrefixScorer::ScoreEntries(Entry* entry) {
  found_.clear();
  const bool known = entry->spelled != Lexicon::kNone;
  Span<const std::int32_t> ending;
  if (known) ending = model_->lexicon_->Ending(entry->spelled);
  const std::int32_t begun =
      known ? model_->best_ahead_[static_cast<std::size_t>(entry->spelled)] : History::kLacking;
  const bool complete = !ending.empty();
  if (!complete) ending = {&begun, 1};
  for (std::int32_t h = 0; h < entry->num_histories; ++h) {
    const std::int32_t previous = entry->first_history + h;
    for (const std::int32_t word : ending) {
      const History& before = histories_[static_cast<std::size_t>(previous)];
      History after;
      const NgramModel::WordId id =
          complete ? model_->lexicon_words_[static_cast<std::size_t>(word)] : NgramModel::kUnknown;
      after.lm_score = before.lm_score + Ask(before.context, id, &after.context);
      after.previous = previous;
      after.entry = word;
      after.begun = !complete;
      const auto same = std::find_if(found_.begin(), found_.end(), [&](const History& other) {
        return other.context == after.context;
      });
      if (same == found_.end()) {
        found_.push_back(after);
      } else if (after.lm_score > same->lm_score) {
        *same = after;
      }
    }
  }
  std::stable_sort(found_.begin(), found_.end(),
                   [](const History& a, const History& b) { return a.lm_score > b.lm_score; });
  if (found_.size() > kMostHistories) found_.resize(kMostHistories);
  entry->first_after = static_cast<std::int32_t>(histories_.size());
  entry->num_after = static_cast<std::int32_t>(found_.size());
  histories_.insert(histories_.end(), found_.begin(), found_.end());
  entry->word_lm_score = found_[0].lm_score - entry->lm_score;
  entry->after_word = found_[0].context;
}

// The history that is best with </s> after it, and its ln p with that.
std::int32_t PrefixScorer::BestHistory(Entry* entry, double* lm_score) {
  std::int32_t first = entry->first_history;
  std::int32_t count = entry->num_histories;
  if (entry->word_has_text) {
    ScoreWord(entry);
    first = entry->first_after;
    count = entry->num_after;
  }
  std::int32_t best = first;
  *lm_score = -std::numeric_limits<double>::infinity();
  for (std::int32_t h = first; h < first + count; ++h) {
    const History& history = histories_[static_cast<std::size_t>(h)];
    NgramModel::State after{};
    double sum = history.lm_score;
    if (model_->language_model_) {
      sum += Ask(history.context, model_->language_model_->end_id(), &after);
    }
    if (sum <= *lm_score) continue;
    best = h;
    *lm_score = sum;
  }
  return best;
}

// ln p of a word. A file's rounding can make it more than certain, which the search's bound on what
// a token can earn does not allow for.
double PrefixScorer::Ask(const NgramModel::State& context, NgramModel::WordId word,
                         NgramModel::State* after) const noexcept {
  if (!model_->language_model_) return 0.0;
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
  entry.spelling = SpellingAfter(from, token);
  entry.spelled = step.spelled;
  entry.first_history = step.ends_word ? from.first_after : from.first_history;
  entry.num_histories = step.ends_word ? from.num_after : from.num_histories;
  if (!model_->tokens_.empty()) {
    const bool has_text = !model_->tokens_[static_cast<std::size_t>(token)].text.empty();
    entry.word_has_text = has_text || (from.word_has_text && !step.begins_word);
  }
  if (model_->hotwords_) {
    double completed = 0.0;
    entry.hotword = model_->Follow(from.hotword, token, &completed);
    entry.bonus_score += completed;
  }
  entry.state = StateOf(token, entry.spelling, entry.hotword, entry.context);
  At(child) = entry;
}

double PrefixScorer::Sum(Node node) const noexcept {
  const Entry& entry = At(node);
  const double lent = model_->hotwords_ ? model_->hotwords_->Lent(entry.hotword) : 0.0;
  const double lm_score = entry.lm_score + Ahead(entry.word_has_text, entry.spelled);
  return model_->options_.lm_weight * lm_score + entry.bonus_score + lent;
}

PrefixScorer::Parts PrefixScorer::AtEnd(Node node) {
  Entry& entry = At(node);
  Parts parts = {entry.lm_score, entry.bonus_score};
  NgramModel::State context = entry.context;
  if (entry.word_has_text) parts.bonus_score += model_->options_.word_bonus;
  if (model_->lexicon_) {
    BestHistory(&entry, &parts.lm_score);
  } else if (entry.word_has_text) {
    if (model_->language_model_ && !model_->options_.lm_over_tokens) {
      ScoreWord(&entry);
      parts.lm_score += entry.word_lm_score;
      context = entry.after_word;
    }
  }
  if (model_->language_model_ && !model_->lexicon_) {
    parts.lm_score += Ask(context, model_->language_model_->end_id(), &context);
  }
  if (model_->hotwords_ && model_->words_have_edges_) {
    parts.bonus_score +=
        model_->hotwords_->Completed(model_->hotwords_->Next(entry.hotword, kSpace));
  }
  return parts;
}

std::vector<std::string> PrefixScorer::Words(Node node) {
  std::vector<std::string> words;
  if (!model_->lexicon_) return words;
  double lm_score = 0.0;
  std::int32_t history = BestHistory(&At(node), &lm_score);
  // From the last word to the first: what is spelled, and its entry.
  std::string spelled;
  for (Node at = node; at >= 0 && At(at).token != PrefixTree::kNoToken; at = At(at).parent) {
    const FusionModel::Token& token = model_->tokens_[static_cast<std::size_t>(At(at).token)];
    spelled.insert(0, token.text);
    const bool first = At(At(at).parent).token == PrefixTree::kNoToken;
    if (spelled.empty() || !(token.begins_word || first)) continue;
    const History& chosen = histories_[static_cast<std::size_t>(history)];
    // What only begins a word is none unless the speech ends there.
    const bool is_word = chosen.entry != History::kLacking && (!chosen.begun || words.empty());
    words.push_back(is_word ? model_->lexicon_->word(chosen.entry) : spelled);
    history = chosen.previous;
    spelled.clear();
  }
  std::reverse(words.begin(), words.end());
  return words;
}

}  // namespace voxformer
