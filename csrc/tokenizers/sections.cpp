#include "sections.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>

#include "threads.h"

namespace pyllm::tokenizers {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little endian and used where it lies");

constexpr uint32_t kVersion = 1;
constexpr size_t kAlignment = 64, kNameSize = 32, kMostSections = 100;
// Pieces of this size are summed by themselves, so that two threads can share a section.
constexpr size_t kBlock = 1 << 20;

struct Header {
  char magic[8];
  uint32_t version, count;
  uint64_t size, checksum;
};

struct DirectoryEntry {
  char name[kNameSize];  // the rest is zeros
  uint64_t offset, bytes, checksum;
};

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("not a sound tokenizer file: " + what);
}

size_t first_section(size_t count) { return aligned(sizeof(Header) + count * sizeof(DirectoryEntry)); }

std::string name_of(const DirectoryEntry& entry) { return {entry.name, strnlen(entry.name, kNameSize)}; }

// Four chains that do not wait for one another; every step is a bijection of the chain, so no single changed
// word can go unnoticed.
uint64_t block_checksum(std::string_view block) {
  constexpr uint64_t kFirst = 0x9E3779B97F4A7C15, kSecond = 0xC2B2AE3D27D4EB4F;
  uint64_t chains[4] = {1, 2, 3, 4 + block.size()};
  uint64_t words[4] = {};
  const auto step = [&] {
    for (int i = 0; i < 4; ++i) chains[i] = std::rotl(chains[i] ^ words[i] * kFirst, 29) * kSecond;
  };
  for (; block.size() >= sizeof(words); block.remove_prefix(sizeof(words))) {
    std::memcpy(words, block.data(), sizeof(words));
    step();
  }
  std::memset(words, 0, sizeof(words));
  if (!block.empty()) std::memcpy(words, block.data(), block.size());
  step();
  uint64_t sum = 0;
  for (const uint64_t chain : chains) sum = std::rotl(sum ^ chain, 23) * kFirst;
  return sum ^ sum >> 32;
}

uint64_t joined(const std::vector<uint64_t>& sums) {
  return block_checksum({reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(uint64_t)});
}

// One checksum for each text.
std::vector<uint64_t> checksums(const std::vector<std::string_view>& texts) {
  std::vector<std::vector<uint64_t>> sums;
  std::vector<std::pair<size_t, size_t>> blocks;
  for (size_t text = 0; text < texts.size(); ++text) {
    sums.emplace_back((texts[text].size() + kBlock - 1) / kBlock);
    for (size_t block = 0; block < sums.back().size(); ++block) blocks.emplace_back(text, block);
  }
  parallel_for_each(blocks.size(), blocks.size() > 4 ? 2 : 1, [&](size_t, size_t i) {
    const auto [text, block] = blocks[i];
    sums[text][block] = block_checksum(texts[text].substr(block * kBlock, kBlock));
  });
  std::vector<uint64_t> result;
  for (const std::vector<uint64_t>& each : sums) result.push_back(joined(each));
  return result;
}

std::vector<DirectoryEntry> read_directory(std::string_view file) {
  Header header;
  if (file.size() < sizeof(header)) refuse("it is shorter than its header");
  std::memcpy(&header, file.data(), sizeof(header));
  if (std::string_view(header.magic, sizeof(header.magic)) != kSectionsMagic) refuse("it starts otherwise");
  if (header.version != kVersion) {
    refuse("version " + std::to_string(header.version) + ", and only " + std::to_string(kVersion) +
           " is known here");
  }
  if (header.size != file.size()) {
    refuse("expected " + std::to_string(header.size) + " bytes, got " + std::to_string(file.size()));
  }
  if (header.count > kMostSections || first_section(header.count) > file.size()) {
    refuse("its directory does not fit");
  }
  const size_t first = first_section(header.count);
  if (block_checksum(file.substr(sizeof(header), first - sizeof(header))) != header.checksum) {
    refuse("its directory is damaged");
  }
  std::vector<DirectoryEntry> directory(header.count);
  file.copy(reinterpret_cast<char*>(directory.data()), header.count * sizeof(DirectoryEntry), sizeof(header));
  return directory;
}

}  // namespace

void SectionWriter::text(const std::string& name, std::string_view bytes) {
  if (name.size() >= kNameSize || !sections_.emplace(name, bytes).second) {
    throw std::logic_error("section " + name + ": the name is too long, or taken");
  }
}

std::string SectionWriter::finish() const {
  const size_t first = first_section(sections_.size());
  std::vector<DirectoryEntry> directory;
  size_t end = first;
  for (const auto& [name, bytes] : sections_) {
    DirectoryEntry& entry = directory.emplace_back(DirectoryEntry{{}, end, bytes.size(), 0});
    name.copy(entry.name, kNameSize);
    end += aligned(bytes.size());
  }
  std::string file(end, '\0');
  std::vector<std::string_view> contents;
  for (const DirectoryEntry& entry : directory) {
    const std::string& bytes = sections_.at(name_of(entry));
    bytes.copy(file.data() + entry.offset, bytes.size());
    contents.push_back(std::string_view(file).substr(entry.offset, aligned(bytes.size())));
  }
  const std::vector<uint64_t> sums = checksums(contents);
  for (size_t i = 0; i < directory.size(); ++i) directory[i].checksum = sums[i];
  if (!directory.empty()) {
    std::memcpy(file.data() + sizeof(Header), directory.data(), directory.size() * sizeof(DirectoryEntry));
  }
  Header header{{}, kVersion, static_cast<uint32_t>(directory.size()), end, 0};
  kSectionsMagic.copy(header.magic, sizeof(header.magic));
  header.checksum = block_checksum(std::string_view(file).substr(sizeof(header), first - sizeof(header)));
  std::memcpy(file.data(), &header, sizeof(header));
  return file;
}

SectionReader::SectionReader(std::string_view file, std::shared_ptr<const void> owner)
    : owner_(std::move(owner)) {
  std::vector<DirectoryEntry> directory = read_directory(file);
  std::vector<std::string_view> contents;
  size_t end = first_section(directory.size());
  for (const DirectoryEntry& entry : directory) {
    // The layout leaves no choice, so every byte of the file belongs to something that has a checksum.
    if (entry.offset != end || entry.bytes > file.size() || aligned(entry.bytes) > file.size() - end) {
      refuse("section '" + name_of(entry) + "' lies outside of it");
    }
    end += aligned(entry.bytes);
    contents.push_back(file.substr(entry.offset, aligned(entry.bytes)));
    if (!sections_.emplace(name_of(entry), file.substr(entry.offset, entry.bytes)).second) {
      refuse("section '" + name_of(entry) + "' occurs twice");
    }
  }
  if (end != file.size()) refuse("it goes on behind its last section");
  const std::vector<uint64_t> sums = checksums(contents);
  for (size_t i = 0; i < directory.size(); ++i) {
    if (sums[i] != directory[i].checksum) refuse("section '" + name_of(directory[i]) + "' is damaged");
  }
}

std::string_view SectionReader::text(const std::string& name) const {
  const auto found = sections_.find(name);
  if (found == sections_.end()) refuse("section '" + name + "' is missing");
  return found->second;
}

void SectionReader::fail(const std::string& name, const char* what) {
  refuse("section '" + name + "': " + what);
}

FileBytes map_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::invalid_argument("it cannot be opened");
  struct stat status{};
  const bool known = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
  const auto size = static_cast<size_t>(known ? status.st_size : 0);
  void* memory = known ? mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  if (memory == MAP_FAILED) throw std::invalid_argument("it cannot be mapped");
  return {{static_cast<const char*>(memory), size},
          std::shared_ptr<const void>(memory, [size](const void* p) { munmap(const_cast<void*>(p), size); })};
}

}  // namespace pyllm::tokenizers
