// Scores of frame codecs at the level `neon_dot`: sdot.
#if defined(__aarch64__)
#define PHASOR_NEON_DOT 1
#include "kvcodec/frame_score_neon-inl.h"

namespace phasor {
const FrameKernels kFrameKernelsNeonDot = {EncodeFrameNeon, DecodeFrameNeon, ScoreNeon,
                                           PrepareNeon};
}  // namespace phasor
#endif  // __aarch64__
