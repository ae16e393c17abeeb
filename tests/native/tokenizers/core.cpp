// Random texts, vocabularies and added tokens through the whole tokenizer core, under sanitizers;
// tests/native/test_tokenizers_fuzz.py builds and runs it.
// Every text lies in a heap block of exactly its size, so that a read past its end is seen.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tokenizers/byte_pair_encoder.h"
#include "tokenizers/normalize.h"
#include "tokenizers/piece_counter.h"
#include "tokenizers/tokenizer.h"
#include "tokenizers/trainer.h"
#include "tokenizers/utf8.h"

namespace {

using namespace pyllm::tokenizers;

constexpr const char* kGrammars[] = {"gpt2", "digits_gpt2", "cl100k", "llama3", "qwen2", "o200k", "none"};

class Fuzzer {
 public:
  explicit Fuzzer(uint64_t seed) : random_(seed) {}

  void round() {
    const std::string grammar = kGrammars[number(std::size(kGrammars))];
    const TrainedBytePairs trained = train(grammar);
    const auto tokenizer = build(trained, grammar);
    for (int i = 0; i < 8; ++i) check(*tokenizer, exact(text(number(200))));
    check(*tokenizer, exact(std::string(number(3000), static_cast<char>(number(256)))));
    share(*tokenizer);
  }

 private:
  struct Exact {
    std::unique_ptr<char[]> bytes;
    size_t size;
    std::string_view view() const { return {bytes.get(), size}; }
  };

  size_t number(size_t end) { return end == 0 ? 0 : random_() % end; }

  Exact exact(const std::string& text) {
    Exact block{std::make_unique<char[]>(text.size()), text.size()};
    text.copy(block.bytes.get(), text.size());
    return block;
  }

  // Characters of every length and class, cut sequences, stray bytes.
  std::string text(size_t characters) {
    static const std::string parts[] = {
        "a",  "A",  " ",  "\n",       "\r",       "'s",  "'ll",     "1",    "\xCC\x81",     "\xC5\xBF",
        "\t", ".",  "/",  "\xE4\xB8", "\xF0\x9F", "<x>", "<",       "\xFF", "\xEA\xB0\x81", "\xE1\x84\x80",
        "é",  "世", "🤗", "ǅ",        "ʰ",        "²",   "\xC2\x85"};
    std::string result;
    for (size_t i = 0; i < characters; ++i) {
      switch (number(4)) {
        case 0:
          result.push_back(static_cast<char>(number(256)));
          break;
        case 1:
          append_utf8(result, static_cast<uint32_t>(number(0x110000)));
          break;
        default:
          result += parts[number(std::size(parts))];
      }
    }
    return result;
  }

  TrainedBytePairs train(const std::string& grammar) {
    const TieBreak rule = static_cast<TieBreak>(number(3));
    MemoryBudget budget;
    PieceCounter counter(grammar, {"<x>"}, rule, budget);
    std::vector<std::string> texts;
    for (int i = 0; i < 4; ++i) texts.push_back(text(number(300)));
    counter.add({texts.begin(), texts.end()}, 1, 1 + number(3));
    return train_byte_pairs(counter.take_words(), 256 + number(64), rule, budget, [](size_t, size_t) {});
  }

  std::unique_ptr<Tokenizer> build(const TrainedBytePairs& trained, const std::string& grammar) {
    TokenizerDefinition definition;
    definition.pretokenizer.scanner = find_pretokenizer(grammar);
    if (number(2) == 0) definition.normalizers.push_back(make_form(kNfc));
    if (number(4) == 0) definition.pretokenizer.steps.push_back(make_prefix_space());
    BytePairDefinition pairs;
    pairs.tokens.assign(trained.tokens.begin(), trained.tokens.end());
    pairs.tokens.insert(pairs.tokens.end(), {"<x>", "\xCC\x81"});
    pairs.present.assign(pairs.tokens.size(), true);
    pairs.mergeable.assign(pairs.tokens.size(), true);
    pairs.ranked_by_id = number(2) == 0;
    pairs.ignore_merges = number(2) == 0;
    for (const TrainedMerge& merge : trained.merges) {
      pairs.merges.push_back(
          {merge.left, merge.right, merge.merged, static_cast<uint32_t>(pairs.merges.size())});
    }
    for (size_t i = 0; i < 2; ++i) {
      AddedToken token;
      token.content = pairs.tokens[trained.tokens.size() + i];
      token.id = static_cast<TokenId>(trained.tokens.size() + i);
      pairs.mergeable[token.id] = false;
      for (bool AddedToken::* flag : {&AddedToken::special, &AddedToken::lstrip, &AddedToken::rstrip,
                                      &AddedToken::single_word, &AddedToken::normalized}) {
        token.*flag = number(2) == 0;
      }
      definition.added_tokens.push_back(token);
    }
    definition.model = std::make_shared<BytePairEncoder>(pairs);
    definition.decoding = {TokenBytes(pairs.tokens, pairs.present), {}};
    return std::make_unique<Tokenizer>(std::move(definition));
  }

  void check(const Tokenizer& tokenizer, const Exact& input) {
    EncodeOptions options{{number(2) == 0, number(2) == 0}, {}, {number(2) == 0, number(2) == 0}};
    const size_t begin = number(input.size);
    if (number(2) == 0) options.plain.push_back({begin, begin + number(input.size - begin)});
    EncodeOutput output, with_offsets;
    with_offsets.with_offsets = true;
    tokenizer.encode(input.view(), options, output);
    tokenizer.encode(input.view(), options, with_offsets);
    if (output.ids != with_offsets.ids || with_offsets.offsets.size() != output.ids.size()) {
      throw std::logic_error("offsets change the ids");
    }
    for (const Span& span : with_offsets.offsets) {
      if (span.begin > span.end || span.end > input.size) throw std::logic_error("an offset is outside");
    }
    tokenizer.find_added(input.view(), {true, true});
    DecodedBytes bytes;
    tokenizer.decoder().decode(std::span<const TokenId>(output.ids), false, false, bytes);
    const std::string_view decoded = bytes.view();
    const bool plain = options.matched == TokenFilter{false, false};
    const bool same = decoded == input.view() || decoded == " " + std::string(input.view());
    if (plain && !may_change(input.view(), kNfc) && !same) throw std::logic_error("round trip");
    const std::string normal = normalize_nfc(input.view());
    if (normalize_nfc(normal) != normal) throw std::logic_error("NFC is not idempotent");
  }

  // Threads that use one tokenizer at once get what one gets alone; for ThreadSanitizer.
  void share(const Tokenizer& tokenizer) {
    const EncodeOptions options{{true, true}, {}, {}};
    std::vector<std::string> texts;
    std::vector<std::vector<TokenId>> expected;
    for (int i = 0; i < 4; ++i) {
      texts.push_back(text(number(60)));
      EncodeOutput alone;
      tokenizer.encode(texts.back(), options, alone);
      expected.push_back(alone.ids);
    }
    std::atomic<bool> differs = false;
    std::vector<std::thread> team;
    for (size_t member = 0; member < 3; ++member) {
      team.emplace_back([&, member] {
        for (size_t i = member; i < member + texts.size(); ++i) {
          EncodeOutput output;
          DecodedBytes bytes;
          tokenizer.encode(texts[i % texts.size()], options, output);
          tokenizer.decoder().decode(std::span<const TokenId>(output.ids), true, false, bytes);
          if (output.ids != expected[i % texts.size()]) differs = true;
        }
      });
    }
    for (std::thread& member : team) member.join();
    if (differs) throw std::logic_error("threads get other ids");
  }

  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const uint64_t rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1000;
  for (uint64_t seed = 0; seed < rounds; ++seed) Fuzzer(seed).round();
  std::printf("%llu rounds, nothing found\n", static_cast<unsigned long long>(rounds));
}
