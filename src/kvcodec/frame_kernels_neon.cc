// Scores of frame codecs at the level `neon`: byte products from widening multiplications.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 0
#include "kvcodec/frame_score_neon-inl.h"

namespace phasor {
const FrameKernels kFrameKernelsNeon = {EncodeFrameNeon, DecodeFrameNeon, ScoreNeon, PrepareNeon};
}  // namespace phasor
#endif  // __aarch64__
