// What a prefix earns beside its alignments: a language model's score, word bonuses and hotwords.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hotwords.h"
#include "lexicon.h"
#include "ngram_model.h"
#include "prefix_tree.h"
#include "span.h"

namespace voxformer {

struct FusionOptions {
  // Factor on the language model's ln p (shallow fusion, Gulcehre et al. 2015).
  double lm_weight = 0.5;
  // Added to the language model's ln p for a word that it lacks.
  double unknown_word_bonus = 0.0;
  // Added for every word.
  double word_bonus = 0.0;
  // The model's words are the tokens of the vocabulary, not the words that these spell.
  bool lm_over_tokens = false;

  void Validate() const;
};

struct Hotword {
  std::string text;                     // where the vocabulary has texts
  std::vector<std::int32_t> token_ids;  // where it has not
  double boost;
};

// A token and what hotwords give for it, above 0.
struct BoostedToken {
  std::int32_t token;
  double gain;
};

// The models and their options, which the searches of all threads share.
//
// A word begins with a token that begins with a space (or SentencePiece's mark for one) and is
// scored by the token that begins the next word, or by the end of the utterance, where </s> is,
// too. Hotwords are looked for in the text, however it is cut into tokens; where some token begins
// with a space they begin and end at words' edges.
//
// With a lexicon, tokens spell the words' pronunciations and only words of the lexicon are
// searched for. The language model scores these; of words that sound alike, it chooses. While a
// word is being spelled, the best ln p that a word so begun has by itself is lent to the prefix
// (language model look-ahead, Ortmanns and Ney 2000; smearing in Collobert et al. 2016).
class FusionModel {
 public:
  // `tokens` has the text of every id; it is empty where there are none, and then so are
  // `language_model` and `lexicon`. Throws std::invalid_argument for options out of range, a
  // hotword that cannot be spelled, a token of more than one word where words count, or a lexicon
  // that no token begins a word of.
  FusionModel(std::shared_ptr<const NgramModel> language_model,
              const std::vector<std::string>& tokens, const std::vector<Hotword>& hotwords,
              const FusionOptions& options, std::shared_ptr<const Lexicon> lexicon = nullptr);

  // Ids that have a text; 0 where there are only ids.
  std::size_t num_tokens() const noexcept { return tokens_.size(); }
  // Factor on a prefix's language model score.
  double lm_weight() const noexcept { return language_model_ ? options_.lm_weight : 0.0; }
  bool has_hotwords() const noexcept { return hotwords_.has_value(); }
  bool has_lexicon() const noexcept { return lexicon_ != nullptr; }

 private:
  friend class PrefixScorer;
  using HotwordState = HotwordAutomaton::State;

  struct Token {
    std::string text;                   // without the space
    std::vector<std::int32_t> symbols;  // what the hotwords' automaton reads
    NgramModel::WordId word = 0;
    bool begins_word = false;
  };

  void AddTokens(const std::vector<std::string>& tokens);
  void AddHotwords(const std::vector<Hotword>& hotwords);
  void AddLexicon();
  // The state after `token`, and in `completed` what the phrases that it completes add.
  HotwordState Follow(HotwordState state, std::int32_t token, double* completed) const noexcept;
  double HotwordGain(HotwordState state, std::int32_t token) const noexcept;
  const std::vector<BoostedToken>& BoostedAfter(HotwordState state) const;

  FusionOptions options_;
  std::shared_ptr<const NgramModel> language_model_;
  std::shared_ptr<const Lexicon> lexicon_;
  std::vector<NgramModel::WordId> lexicon_words_;  // by entry
  // By node: the best ln p of a word spelled so far or further, and that word's entry.
  std::vector<double> ahead_;
  std::vector<std::int32_t> best_ahead_;
  double least_ahead_ = 0.0;
  std::vector<Token> tokens_;
  bool words_have_edges_ = false;     // some token begins with a space
  bool words_within_tokens_ = false;  // some token has a space elsewhere
  std::optional<HotwordAutomaton> hotwords_;
  std::vector<std::int32_t> boostable_;  // the tokens that can be part of a hotword
  // By state, made when a search first comes there and kept for all that follow.
  mutable std::vector<std::atomic<const std::vector<BoostedToken>*>> boosted_;
  mutable std::vector<std::unique_ptr<const std::vector<BoostedToken>>> boosted_owner_;
  mutable std::mutex boosted_mutex_;
};

// Throws std::invalid_argument unless each of `vocab` columns has a text, or none has.
void CheckVocabulary(const FusionModel& fusion, std::size_t vocab);

// Scores the prefixes of one search, by their nodes in its tree.
class PrefixScorer {
 public:
  using Node = PrefixTree::Node;

  explicit PrefixScorer(std::shared_ptr<const FusionModel> model);

  // Forgets all but the empty prefix.
  void Start();

  // What `node`'s prefix earns when `token` follows it; -inf where the lexicon has no such word.
  double Gain(Node node, std::int32_t token);
  // The same where the hotwords' part is known.
  double Gain(Node node, const BoostedToken& boosted);

  // What decides the gains of all that may follow `node`'s prefix, and its last token. Prefixes
  // with the same state differ in nothing that is still to come, but for hash collisions and for
  // choices among homophones other than the best.
  std::uint64_t State(Node node) const noexcept { return At(node).state; }
  // The same after `token`, which the lexicon has.
  std::uint64_t StateAfter(Node node, std::int32_t token);

  // No token but those of BoostedTokens() earns more.
  double largest_gain() const noexcept { return largest_gain_; }
  // The same for what follows `node`'s prefix, which is less where a lexicon ends its words.
  double LargestGain(Node node);
  double lm_weight() const noexcept { return model_->lm_weight(); }
  bool has_hotwords() const noexcept { return model_->has_hotwords(); }
  bool has_lexicon() const noexcept { return model_->has_lexicon(); }

  // The tokens that hotwords give something after `node`'s prefix, in ascending order.
  Span<const BoostedToken> BoostedTokens(Node node) const;

  // Makes `child`, which is new, known: `token` after `parent`'s prefix.
  void Enter(Node child, Node parent, std::int32_t token);

  // The sum of gains since the empty prefix.
  double Sum(Node node) const noexcept;

  // What the prefix has if the utterance ends with it.
  struct Parts {
    double lm_score = 0.0;     // ln p of words and </s>, before the weight
    double bonus_score = 0.0;  // word bonuses and hotwords
  };
  Parts AtEnd(Node node);

  // The words that AtEnd() scores, by the lexicon, and as they are spelled where it lacks them.
  std::vector<std::string> Words(Node node);

 private:
  static constexpr std::uint64_t kNothingSpelled = 14695981039346656037ULL;  // FNV-1a's start

  // One for each node of the tree.
  struct Entry {
    double lm_score = 0.0;     // of the words that are complete
    double bonus_score = 0.0;  // without what is lent to hotwords
    NgramModel::State context{};
    Node parent = -1;
    std::int32_t token = PrefixTree::kNoToken;
    std::int32_t word_tokens = 0;  // of the word at the end, which is not complete
    bool word_has_text = false;
    std::uint64_t spelling = kNothingSpelled;  // hash of that word so far
    std::uint64_t state = 0;
    HotwordAutomaton::State hotword = HotwordAutomaton::kStart;
    // What that word would have if it were complete, once somebody has asked.
    bool word_is_scored = false;
    double word_lm_score = 0.0;
    NgramModel::State after_word{};
    // With a lexicon: where that word is in it, and which histories the words before it have, and
    // those with it once somebody has asked.
    Lexicon::Node spelled = Lexicon::kRoot;
    std::int32_t first_history = 0;
    std::int32_t num_histories = 1;
    std::int32_t first_after = 0;
    std::int32_t num_after = 0;
  };
  // One choice among words that sound alike. Of those that have the same context the best is kept,
  // and of the others the best few; the first is the best of all.
  struct History {
    static constexpr std::int32_t kLacking = -1;

    double lm_score = 0.0;
    NgramModel::State context{};
    std::int32_t previous = -1;
    std::int32_t entry = kLacking;  // of the lexicon
    bool begun = false;             // of `entry`, and no more than that is spelled
  };
  // What a token adds to the parts of a prefix.
  struct Step {
    double lm_score = 0.0;
    double bonus_score = 0.0;
    NgramModel::State context{};
    bool begins_word = false;
    bool ends_word = false;
    Lexicon::Node spelled = Lexicon::kRoot;
  };

  Entry& At(Node node) noexcept { return entries_[static_cast<std::size_t>(node)]; }
  const Entry& At(Node node) const noexcept { return entries_[static_cast<std::size_t>(node)]; }
  Step StepTo(Entry* entry, std::int32_t token);
  std::uint64_t SpellingAfter(const Entry& entry, std::int32_t token) const noexcept;
  static std::uint64_t StateOf(std::int32_t token, std::uint64_t spelling,
                               HotwordAutomaton::State hotword,
                               const NgramModel::State& context) noexcept;
  bool CutsWord(const Entry& entry, std::int32_t token) const noexcept;
  double GainOf(const Entry& entry, const Step& step) const noexcept;
  double Ahead(bool word_has_text, Lexicon::Node spelled) const noexcept;
  void ScoreWord(Entry* entry);
  void ScoreEntries(Entry* entry);
  std::int32_t BestHistory(Entry* entry, double* lm_score);
  double Ask(const NgramModel::State& context, NgramModel::WordId word,
             NgramModel::State* after) const noexcept;

  std::shared_ptr<const FusionModel> model_;
  double largest_gain_;
  std::vector<Entry> entries_;
  std::vector<History> histories_;
  std::vector<History> found_;
  std::string word_;
};

}  // namespace voxformer
