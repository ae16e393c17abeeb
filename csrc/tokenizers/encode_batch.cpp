#include "encode_batch.h"

#include <algorithm>

#include "threads.h"

namespace pyllm::tokenizers {
namespace {

// A thread costs as much as encoding a few kilobytes.
constexpr size_t kLeastBytes = 1 << 15;
constexpr size_t kJobsPerThread = 8;

// The texts from `first` to before `last`, or, where there are segments, a part of the one text.
struct Job {
  size_t first, last;
  std::vector<Segment> segments;
  bool starts = true, ends = true;  // the first text starts and the last one ends here
};

struct JobOutput {
  std::vector<TokenId> ids;
  std::vector<size_t> ends;  // of the texts that end in the job
};

void add_parts(size_t text, const std::vector<Segment>& segments, size_t size, std::vector<Job>& jobs) {
  const size_t first = jobs.size();
  for (const Segment& segment : segments) {
    const bool full =
        jobs.size() > first && segment.span.begin - jobs.back().segments.front().span.begin >= size;
    if (jobs.size() == first || full) jobs.push_back({text, text + 1, {}, jobs.size() == first, false});
    jobs.back().segments.push_back(segment);
  }
  jobs.back().ends = true;
}

// Jobs of `size` bytes or more, but for the last and those before a long text.
std::vector<Job> plan(const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
                      const EncodeOptions& options, size_t size) {
  std::vector<Job> jobs;
  size_t first = 0, pending = 0;
  const auto finish = [&](size_t last) {
    if (first < last) jobs.push_back({first, last, {}});
    pending = 0;
    first = last;
  };
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size() / 2 >= size) {
      finish(i);
      add_parts(i, tokenizer.segments(texts[i], options, size), size, jobs);
      first = i + 1;
    } else if ((pending += texts[i].size()) >= size) {
      finish(i + 1);
    }
  }
  finish(texts.size());
  return jobs;
}

void append(std::vector<TokenId>& ids, const std::vector<TokenId>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

JobOutput run(const Job& job, const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
              const EncodeOptions& options, const Surroundings& around) {
  EncodeOutput out;
  std::vector<size_t> ends;
  for (size_t i = job.first; i < job.last; ++i) {
    if (job.starts) append(out.ids, around.prefix);
    if (job.segments.empty()) {
      tokenizer.encode(texts[i], options, out);
    } else {
      tokenizer.encode_segments(texts[i], job.segments, options, out.ids);
    }
    if (!job.ends) break;
    append(out.ids, around.suffix);
    ends.push_back(out.ids.size());
  }
  return {std::move(out.ids), std::move(ends)};
}

EncodedBatch joined(std::vector<JobOutput> outputs) {
  EncodedBatch batch{{}, {0}};
  size_t count = 0;
  for (const JobOutput& output : outputs) {
    for (const size_t end : output.ends) batch.borders.push_back(count + end);
    count += output.ids.size();
  }
  if (outputs.size() == 1) {
    batch.ids = std::move(outputs[0].ids);
    return batch;
  }
  batch.ids.reserve(count);
  for (JobOutput& output : outputs) {
    append(batch.ids, output.ids);
    std::vector<TokenId>().swap(output.ids);
  }
  return batch;
}

}  // namespace

EncodedBatch encode_batch(const Tokenizer& tokenizer, const std::vector<std::string_view>& texts,
                          const EncodeOptions& options, const Surroundings& around, size_t num_threads) {
  size_t bytes = 0, size = SIZE_MAX;
  for (const std::string_view text : texts) bytes += text.size();
  if (num_threads > 1) size = std::max(kLeastBytes, bytes / (num_threads * kJobsPerThread));
  const std::vector<Job> jobs = plan(tokenizer, texts, options, size);
  std::vector<JobOutput> outputs(jobs.size());
  parallel_for_each(jobs.size(), num_threads,
                    [&](size_t, size_t j) { outputs[j] = run(jobs[j], tokenizer, texts, options, around); });
  return joined(std::move(outputs));
}

}  // namespace pyllm::tokenizers
