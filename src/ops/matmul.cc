// The driver of matrix products: prepares activations, deals panels to threads, picks kernels.
#include "ops/matmul.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/check.h"
#include "ops/matmul_kernels.h"

namespace phasor {

const int kPrefetchBytes = IsIntelCpu() ? 8 << 10 : 1 << 10;

const MatMulKernels& MatMulKernelsFor(CpuLevel level) {
#if defined(__x86_64__)
  if (IsAvx512(level)) return Avx512MatMulKernels();
  if (level == CpuLevel::kAvx2) return Avx2MatMulKernels();
#elif defined(__aarch64__)
  if (level == CpuLevel::kNeonDot) return NeonDotMatMulKernels();
  if (level == CpuLevel::kNeon) return NeonMatMulKernels();
#endif
  return ScalarMatMulKernels();
}

const ManyTokensKernels* FindManyTokensKernels([[maybe_unused]] int n_tokens) {
#if defined(__x86_64__)
  if (ActiveCpuLevel() == CpuLevel::kAvx512 && AmxEnabled()) {
    const ManyTokensKernels& kernels = AmxManyTokensKernels();
    if (n_tokens >= kernels.min_tokens) return &kernels;
  }
#endif
  return nullptr;
}

namespace {

// Panels [begin, end) that are left of one thread's share, in one word: begin in the lower half.
struct alignas(64) Share {
  std::atomic<uint64_t> left{0};
};
constexpr int kEndShift = 32;

}  // namespace

struct MatMulScratch::Impl {
  AlignedBuffer<std::byte> x_int8, x_float, x_many;
  std::vector<AlignedBuffer<std::byte>> rooms;  // for decoded weights, one per thread
  std::unique_ptr<Share[]> shares;              // one per thread
  int n_shares = 0;
};

MatMulScratch::MatMulScratch() : impl_(std::make_unique<Impl>()) {}
MatMulScratch::~MatMulScratch() = default;

namespace {

// Weights per dealt piece: about a microsecond of memory traffic, well above the cost of taking it.
constexpr int64_t kPieceBytes = 32 << 10;
// Weights that stay in a core's L2 cache beside the activations of a group.
constexpr int64_t kCachedBytes = 256 << 10;
// Activations are prepared by all threads from this many floats on (about 10 microseconds of work).
constexpr int64_t kParallelPrepare = 64 << 10;

// Tokens in groups of nearly equal size.
struct Groups {
  int n_tokens, n_groups;
  Groups(int tokens, int max_tokens)
      : n_tokens(tokens), n_groups((tokens + max_tokens - 1) / max_tokens) {}
  int begin(int g) const { return static_cast<int>(static_cast<int64_t>(g) * n_tokens / n_groups); }
  int size(int g) const { return begin(g + 1) - begin(g); }
};

struct Call {
  const MatMulKernels& kernels;
  const ManyTokensKernels* many;  // null: all take `kernels`
  Groups groups;
  int64_t n_cols;
  const std::byte* x_int8 = nullptr;
  const std::byte* x_float = nullptr;
  const std::byte* x_many = nullptr;
};

// Group g of float activations as [n_cols][nt].
void TransposeGroup(const float* x_TK, int64_t ldx, int64_t n_cols, int nt, float* out) {
  if (nt == 1) {
    std::memcpy(out, x_TK, static_cast<std::size_t>(n_cols) * sizeof(float));
    return;
  }
  for (int t = 0; t < nt; ++t) {
    const float* x = x_TK + t * ldx;
    for (int64_t k = 0; k < n_cols; ++k) out[k * nt + t] = x[k];
  }
}

// Panels [begin, end) of one job against all groups of tokens.
void RunPanels(const Call& call, const MatMulJob& job, int64_t begin, int64_t end) {
  const PackedMatrix& w = *job.w;
  const bool is_integer = w.is_integer();
  PanelTask task;
  task.ldy = job.ldy == 0 ? w.n_rows() : job.ldy;
  task.accumulate = job.accumulate;
  task.n = is_integer ? call.n_cols / kCodeBlock : call.n_cols;
  const std::byte* x = is_integer ? call.x_int8 : call.x_float;
  const int64_t token_bytes =
      is_integer ? task.n * kActivationBytes : task.n * static_cast<int64_t>(sizeof(float));
  for (int g = 0; g < call.groups.n_groups; ++g) {
    const int first = call.groups.begin(g);
    task.n_tokens = call.groups.size(g);
    task.x = x + first * token_bytes;
    PanelKernel kernel = is_integer ? call.kernels.packed(w.layout(), task.n_tokens)
                                    : call.kernels.floats(w.float_dtype(), task.n_tokens);
    for (int64_t p = begin; p < end; ++p) {
      task.w = w.panel(p);
      task.y = job.y + first * task.ldy + p * kPanelRows;
      task.bias = job.bias == nullptr ? nullptr : job.bias + p * kPanelRows;
      task.n_rows = static_cast<int>(std::min<int64_t>(kPanelRows, w.n_rows() - p * kPanelRows));
      kernel(task);
    }
  }
}

// Whether the kernels for many tokens take a matrix.
bool TakesMany(const PackedMatrix& w) {
  if (w.is_integer()) return true;
  return w.may_round() && w.float_dtype() == DType::kBF16 && w.n_cols() % kCodeBlock == 0;
}

// Panels [begin, end) of one job that TakesMany against all tokens.
void RunPanelsOfMany(const Call& call, const MatMulJob& job, int64_t begin, int64_t end,
                     std::byte* room) {
  const PackedMatrix& w = *job.w;
  const int64_t row = begin * kPanelRows;
  ManyTokensTask task;
  task.layout = w.layout();
  task.w = w.panel(begin);
  task.panel_bytes = static_cast<int64_t>(w.panel_bytes());
  task.n_rows = std::min(w.n_rows(), end * kPanelRows) - row;
  task.n_blocks = call.n_cols / kCodeBlock;
  task.x = call.x_many;
  task.n_tokens = call.groups.n_tokens;
  task.y = job.y + row;
  task.ldy = job.ldy == 0 ? w.n_rows() : job.ldy;
  task.bias = job.bias == nullptr ? nullptr : job.bias + row;
  task.accumulate = job.accumulate;
  call.many->multiply(task, room);
}

// Activations for call->many.
void PrepareMany(Call* call, const float* x_TK, int64_t ldx, MatMulScratch::Impl* scratch,
                 ThreadPool& pool) {
  const ManyTokensKernels& many = *call->many;
  const int n_tokens = call->groups.n_tokens, size = many.group_tokens;
  const int n_groups = (n_tokens + size - 1) / size;
  const int64_t n_blocks = call->n_cols / kCodeBlock;
  const int64_t group_bytes = many.token_block_bytes * size * n_blocks;
  scratch->x_many.Resize(static_cast<std::size_t>(group_bytes * n_groups));
  scratch->rooms.resize(std::max(scratch->rooms.size(), static_cast<std::size_t>(pool.size())));
  for (auto& room : scratch->rooms) room.Resize(static_cast<std::size_t>(many.room_bytes));
  call->x_many = scratch->x_many.data();
  pool.ParallelFor(n_groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int first = static_cast<int>(g) * size;
      many.pack(x_TK + first * ldx, ldx, std::min(size, n_tokens - first), n_blocks,
                scratch->x_many.data() + g * group_bytes);
    }
  });
}

// Fills the forms of x that the jobs need.
void PrepareActivations(Call* call, const float* x_TK, int64_t ldx, bool any_integer,
                        bool any_float, MatMulScratch::Impl* scratch, ThreadPool& pool) {
  const Groups& groups = call->groups;
  const int64_t n_blocks = call->n_cols / kCodeBlock;
  if (any_integer) {
    scratch->x_int8.Resize(static_cast<std::size_t>(groups.n_tokens * n_blocks * kActivationBytes));
  }
  if (any_float) {
    scratch->x_float.Resize(static_cast<std::size_t>(groups.n_tokens * call->n_cols) *
                            sizeof(float));
  }
  call->x_int8 = scratch->x_int8.data();
  call->x_float = scratch->x_float.data();
  auto prepare = [&](int64_t begin, int64_t end) {
    for (int g = static_cast<int>(begin); g < end; ++g) {
      const int first = groups.begin(g), nt = groups.size(g);
      if (any_float) {
        float* out = reinterpret_cast<float*>(scratch->x_float.data()) + first * call->n_cols;
        TransposeGroup(x_TK + first * ldx, ldx, call->n_cols, nt, out);
      }
      if (!any_integer) continue;
      std::byte* out = scratch->x_int8.data() + first * n_blocks * kActivationBytes;
      for (int t = 0; t < nt; ++t) {
        call->kernels.quantize(x_TK + (first + t) * ldx, n_blocks, t, nt, out);
      }
    }
  };
  if (groups.n_tokens * call->n_cols < kParallelPrepare) {
    prepare(0, groups.n_groups);
  } else {
    pool.ParallelFor(groups.n_groups, 1, prepare);
  }
}

// Panels [begin, end) of all jobs, counted through.
void RunRange(const Call& call, std::span<const MatMulJob> jobs, int64_t begin, int64_t end,
              std::byte* room) {
  for (const MatMulJob& job : jobs) {
    const int64_t n = job.w->n_panels();
    const int64_t first = std::max<int64_t>(0, begin), last = std::min(n, end);
    if (call.many != nullptr && TakesMany(*job.w)) {
      if (first < last) RunPanelsOfMany(call, job, first, last, room);
    } else {
      // A few panels at a time, so that they stay in cache while all groups of tokens pass by.
      const int64_t step =
          std::max<int64_t>(1, kCachedBytes / static_cast<int64_t>(job.w->panel_bytes()));
      for (int64_t p = first; p < last; p += step) {
        RunPanels(call, job, p, std::min(last, p + step));
      }
    }
    begin -= n;
    end -= n;
  }
}

// Number of panels, of all jobs counted through, that hold the first `bytes` bytes of weights.
int64_t PanelsOf(std::span<const MatMulJob> jobs, int64_t bytes) {
  int64_t n_panels = 0;
  for (const MatMulJob& job : jobs) {
    const int64_t panel_bytes = static_cast<int64_t>(job.w->panel_bytes());
    const int64_t n = std::min(job.w->n_panels(), bytes / panel_bytes);
    n_panels += n;
    bytes -= n * panel_bytes;
    if (n < job.w->n_panels()) break;
  }
  return n_panels;
}

// Gives every thread a run of panels of about the same bytes.
void ShareOut(std::span<const MatMulJob> jobs, int64_t n_panels, int64_t size_bytes, int n_threads,
              MatMulScratch::Impl* scratch) {
  if (scratch->n_shares < n_threads) {
    scratch->shares = std::make_unique<Share[]>(static_cast<std::size_t>(n_threads));
    scratch->n_shares = n_threads;
  }
  int64_t begin = 0;
  for (int i = 0; i < n_threads; ++i) {
    const int64_t end =
        i + 1 == n_threads ? n_panels : PanelsOf(jobs, size_bytes / n_threads * (i + 1));
    scratch->shares[i].left.store(static_cast<uint64_t>(begin) | static_cast<uint64_t>(end)
                                                                     << kEndShift,
                                  std::memory_order_relaxed);
    begin = end;
  }
}

// Takes up to `piece` panels from the front (or the back) of a share. False when it is empty.
bool TakePiece(Share& share, int64_t piece, bool from_back, int64_t* begin, int64_t* end) {
  uint64_t left = share.left.load(std::memory_order_relaxed), after;
  do {
    *begin = static_cast<int64_t>(left & 0xffffffffu);
    *end = static_cast<int64_t>(left >> kEndShift);
    if (*begin >= *end) return false;
    if (from_back) {
      *begin = std::max(*begin, *end - piece);
      after = (left & 0xffffffffu) | static_cast<uint64_t>(*begin) << kEndShift;
    } else {
      *end = std::min(*end, *begin + piece);
      after = static_cast<uint64_t>(*end) | left >> kEndShift << kEndShift;
    }
  } while (!share.left.compare_exchange_weak(left, after, std::memory_order_relaxed));
  return true;
}

// A thread reads its own share from end to end, as hardware prefetch likes it, and then helps the
// others from the back, so that one whose core is busy elsewhere holds up nobody.
template <typename F>
void TakePieces(Share* shares, int n_threads, int thread, int64_t piece, F&& run) {
  int64_t begin, end;
  for (int i = 0; i < n_threads; ++i) {
    Share& share = shares[(thread + i) % n_threads];
    while (TakePiece(share, piece, i > 0, &begin, &end)) run(begin, end);
  }
}

}  // namespace

void MatMul(std::span<const MatMulJob> jobs, const float* x_TK, int64_t ldx, int n_tokens,
            MatMulScratch& scratch, ThreadPool& pool) {
  if (jobs.empty() || n_tokens <= 0) return;
  const MatMulKernels& kernels = MatMulKernelsFor(ActiveCpuLevel());
  Call call{kernels, FindManyTokensKernels(n_tokens), Groups(n_tokens, kernels.max_tokens),
            jobs[0].w->n_cols()};
  int64_t n_panels = 0, size_bytes = 0;
  bool any_integer = false, any_float = false, any_many = false;
  for (const MatMulJob& job : jobs) {
    PHASOR_CHECK(job.w->n_cols() == call.n_cols);
    n_panels += job.w->n_panels();
    size_bytes += static_cast<int64_t>(job.w->size_bytes());
    const bool many = call.many != nullptr && TakesMany(*job.w);
    (many ? any_many : job.w->is_integer() ? any_integer : any_float) = true;
  }
  if (ldx == 0) ldx = call.n_cols;
  MatMulScratch::Impl* own = scratch.impl();
  if (any_many) PrepareMany(&call, x_TK, ldx, own, pool);
  PrepareActivations(&call, x_TK, ldx, any_integer, any_float, own, pool);

  const int64_t piece = std::max<int64_t>(
      1, n_tokens == 1 ? kPieceBytes * n_panels / size_bytes : n_panels / (8 * pool.size()));
  auto run = [&](int64_t begin, int64_t end, int thread) {
    RunRange(call, jobs, begin, end,
             any_many ? own->rooms[static_cast<std::size_t>(thread)].data() : nullptr);
  };
  if (pool.size() == 1 || n_panels <= piece) return run(0, n_panels, 0);
  ShareOut(jobs, n_panels, size_bytes, pool.size(), own);
  Share* shares = own->shares.get();
  pool.RunSharing([&](int thread) {
    TakePieces(shares, pool.size(), thread, piece,
               [&](int64_t begin, int64_t end) { run(begin, end, thread); });
  });
}

}  // namespace phasor
