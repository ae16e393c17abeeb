// Runs the entry point of libFuzzer without libFuzzer: every file of a folder as it is, then damaged ones for
// some seconds. The input that kills the process lies in the file `current` of the folder.
//
//   tokenizers_loaders FOLDER SECONDS [SEED]
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t number(size_t end) { return end == 0 ? 0 : random_() % end; }

  // The first byte stays: it names the reader.
  Bytes damaged(Bytes bytes, const Bytes& other) {
    for (size_t rounds = 1 + number(4); rounds > 0; --rounds) {
      const size_t at = 1 + number(bytes.size() - 1);
      const size_t length = number(std::min<size_t>(bytes.size() - at, 1 + number(64)) + 1);
      const auto begin = bytes.begin() + static_cast<ptrdiff_t>(at);
      switch (number(7)) {
        case 0:
          bytes[at] ^= static_cast<uint8_t>(1 << number(8));
          break;
        case 1:
          bytes[at] = static_cast<uint8_t>(number(256));
          break;
        case 2:
          bytes.erase(begin, begin + static_cast<ptrdiff_t>(length));
          break;
        case 3:
          bytes.insert(begin, length, static_cast<uint8_t>(number(256)));
          break;
        case 4: {  // a number that is the end of something
          const uint32_t edges[] = {0, 1, 127, 255, 1 << 16, INT32_MAX, UINT32_MAX, uint32_t(bytes.size())};
          const uint32_t edge = edges[number(std::size(edges))];
          for (size_t i = 0; i < 4 && at + i < bytes.size(); ++i) bytes[at + i] = uint8_t(edge >> 8 * i);
          break;
        }
        case 5: {
          const Bytes copied(begin, begin + static_cast<ptrdiff_t>(length));
          bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(1 + number(bytes.size() - 1)), copied.begin(),
                       copied.end());
          break;
        }
        default:
          if (other.size() > 2) {
            const size_t from = 1 + number(other.size() - 1);
            bytes.resize(at);
            bytes.insert(bytes.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
          }
      }
      if (bytes.size() < 2) return bytes;
    }
    return bytes;
  }

 private:
  std::mt19937_64 random_;
};

void run(const Bytes& input, const std::filesystem::path& current) {
  std::ofstream(current, std::ios::binary)
      .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::filesystem::path folder = argv[1], current = folder / "current";
  std::vector<Bytes> corpus;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path() == current) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    Bytes bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() >= 2) corpus.push_back(std::move(bytes));
  }
  if (corpus.empty()) return 2;
  for (const Bytes& bytes : corpus) run(bytes, current);
  Mutator mutator(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[2]));
  size_t count = corpus.size();
  for (; std::chrono::steady_clock::now() < end; ++count) {
    const Bytes& one = corpus[mutator.number(corpus.size())];
    run(mutator.damaged(one, corpus[mutator.number(corpus.size())]), current);
  }
  std::printf("%zu inputs, nothing found\n", count);
}
