// Joining rows that branching has scattered.
#pragma once

#include "base/thread_pool.h"
#include "cache/kv_cache.h"

namespace phasor {

// A sequence that was forked again and again ends in many pieces of few rows, each holding a block
// of kPageTokens. Where its newest rows (those that are seen alike, at most kPageTokens of them)
// lie in more than max_pieces pieces, they are copied into one block of their own; contents,
// positions and everything else stay as they are. kResourceExhausted changes nothing.
Status CompactTail(int max_pieces, KvCache* cache, ThreadPool& pool);

}  // namespace phasor
