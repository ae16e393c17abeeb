#include "decoding_tables.h"

#include <string>
#include <utility>

namespace pyllm::tokenizers {
namespace {

// edit(id, token, out) appends what becomes of a token.
template <typename Edit>
TokenBytes edited(const TokenBytes& tokens, Edit&& edit) {
  TokenBytesBuilder builder;
  builder.reserve(tokens.size(), tokens.total_bytes());
  for (TokenId id = 0; id < tokens.size(); ++id) {
    if (tokens.contains(id)) edit(id, tokens[id], builder.bytes());
    builder.close(tokens.contains(id));
  }
  return builder.finish();
}

void append_replaced(std::string_view text, std::string_view from, std::string_view to, std::string& out) {
  size_t begin = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, begin)) {
    out.append(text.substr(begin, at - begin)).append(to);
    begin = at + from.size();
  }
  out.append(text.substr(begin));
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// -1: the token does not name a byte.
int named_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

constexpr std::pair<std::string_view, std::string_view> kCleanUp[] = {
    {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
    {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};

}  // namespace

TokenBytes replaced(const TokenBytes& tokens, std::string_view from, std::string_view to) {
  return edited(tokens, [&](TokenId, std::string_view token, std::string& out) {
    append_replaced(token, from, to, out);
  });
}

TokenBytes bytes_of_fallback(const TokenBytes& tokens) {
  return edited(tokens, [](TokenId, std::string_view token, std::string& out) {
    const int byte = named_byte(token);
    byte < 0 ? out.append(token) : out.append(1, static_cast<char>(byte));
  });
}

TokenBytes prefixed(const TokenBytes& tokens, std::string_view text) {
  return edited(tokens,
                [&](TokenId, std::string_view token, std::string& out) { out.append(text).append(token); });
}

TokenBytes stripped(const TokenBytes& tokens, std::string_view prefix, bool repeatedly) {
  return edited(tokens, [&](TokenId, std::string_view token, std::string& out) {
    while (!prefix.empty() && token.starts_with(prefix)) {
      token.remove_prefix(prefix.size());
      if (!repeatedly) break;
    }
    out.append(token);
  });
}

TokenBytes continued_words(const TokenBytes& tokens, std::string_view prefix) {
  return edited(tokens, [&](TokenId, std::string_view token, std::string& out) {
    if (token.starts_with(prefix)) {
      out.append(token.substr(prefix.size()));
    } else {
      out.append(" ").append(token);
    }
  });
}

TokenBytes cleaned_up(const TokenBytes& tokens) {
  std::string from, to;
  return edited(tokens, [&](TokenId, std::string_view token, std::string& out) {
    from.assign(token);
    for (const auto& [old, put] : kCleanUp) {
      to.clear();
      append_replaced(from, old, put, to);
      std::swap(from, to);
    }
    out.append(from);
  });
}

TokenBytes with_token(const TokenBytes& tokens, TokenId changed, std::string_view bytes) {
  return edited(tokens, [&](TokenId id, std::string_view token, std::string& out) {
    out.append(id == changed ? bytes : token);
  });
}

}  // namespace pyllm::tokenizers
