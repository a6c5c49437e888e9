#include "engine/batched_read.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace phasor {

Status ReadBatched(std::span<const BatchAppend> items, const BatchedReadOptions& options) {
  PHASOR_CHECK(options.n_batch >= 1);
  std::vector<int64_t> done(items.size(), 0);
  std::size_t first = 0;
  while (first < items.size()) {
    if (options.cancel != nullptr && options.cancel->load()) {
      return Cancelled("batch: cancelled after " + std::to_string(first) + " of " +
                       std::to_string(items.size()) + " texts");
    }
    std::vector<BatchAppend> pass;
    int64_t room = options.n_batch;
    for (std::size_t i = first; i < items.size() && room > 0; ++i) {
      const BatchAppend& item = items[i];
      const auto n = std::min(room, static_cast<int64_t>(item.tokens.size()) - done[i]);
      BatchAppend part{item.session, item.tokens.subspan(done[i], n)};
      if (!item.positions.empty()) part.positions = item.positions.subspan(done[i], n);
      pass.push_back(part);
      room -= n;
    }
    std::function<void(int, int64_t, std::span<const float>)> on_logits;
    if (options.on_logits) {
      on_logits = [&](int i, int64_t index, std::span<const float> logits) {
        const std::size_t item = first + static_cast<std::size_t>(i);
        options.on_logits(static_cast<int>(item), done[item] + index, logits);
      };
    }
    PHASOR_RETURN_IF_ERROR(AppendBatch(pass, on_logits));
    for (std::size_t i = 0; i < pass.size(); ++i) {
      done[first + i] += static_cast<int64_t>(pass[i].tokens.size());
    }
    while (first < items.size() &&
           done[first] == static_cast<int64_t>(items[first].tokens.size())) {
      ++first;
    }
  }
  return Status::Ok();
}

}  // namespace phasor
