#include "model/dense_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "tests/support/tiny_model.h"

namespace phasor {
namespace {

using ::phasor::testing::CollectLogits;
using ::phasor::testing::kModels;
using ::phasor::testing::kRelativeTolerance;
using ::phasor::testing::Largest;
using ::phasor::testing::Load;
using ::phasor::testing::MaxAbsDifference;
using ::phasor::testing::NewSession;
using ::phasor::testing::RandomTokens;

TEST(DenseReference, EqualsTheEngineOnPlainText) {
  Rng rng(1);
  for (const char* name : kModels) {
    const auto model = Load(name);
    const std::vector<int32_t> tokens = RandomTokens(*model, 48, rng);
    const auto session = NewSession(*model);
    const std::vector<float> engine = CollectLogits(*session, tokens, 7);
    const std::vector<float> dense =
        DenseReferenceLogits(model->transformer(), {.tokens = tokens}, model->pool());
    EXPECT_LT(MaxAbsDifference(engine, dense), kRelativeTolerance * Largest(dense)) << name;
  }
}

}  // namespace
}  // namespace phasor
