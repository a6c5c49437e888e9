// The orthonormal Walsh-Hadamard transform over the head size: spreads an outlier channel evenly
// over its block, after which one scale per row loses little.
#pragma once

namespace phasor {

// Largest power of two that divides head_dim: the size of the blocks that are transformed.
// 64 -> 64, 80 -> 16, 96 -> 32; 1 (nothing to do) for odd sizes.
int HadamardBlock(int head_dim);

// In place over n_rows rows of head_dim floats, each block on its own, Sylvester order, scaled by
// 1 / sqrt(block): symmetric, and its own inverse. The same bits at every CPU level.
void HadamardRows(float* x_ND, int n_rows, int head_dim);

}  // namespace phasor
