#include "cli/rope_flags.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "registry/position_table.h"

namespace phasor::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMaxFactorFileBytes = 1 << 20;

struct FieldFlag {
  RopeField field;
  const char* flags;
};

constexpr FieldFlag kFieldFlags[] = {
    {kRopeFactor, "--rope-scale"},
    {kRopeOriginalContext, "--yarn-orig-ctx"},
    {kRopeContext, "--rope-context"},
    {kRopeLowHighFreqFactor, "--rope-low-freq-factor, --rope-high-freq-factor"},
    {kRopeBetas, "--yarn-beta-fast, --yarn-beta-slow"},
    {kRopeAttentionFactor, "--yarn-attn-factor"},
    {kRopePowerExponent, "--rope-power"},
    {kRopeTruncationContext, "--rope-truncate-ctx"},
    {kRopeCutContext, "--rope-cut-ctx"},
    {kRopeFactorLists, "--rope-factors"},
};

std::vector<std::string> MethodIds() {
  std::vector<std::string> ids;
  for (const PositionMethodInfo* info : PositionMethods()) ids.emplace_back(info->id);
  ids.push_back("none");  // llama.cpp's word for rope
  return ids;
}

// Fields that the flags set, as RopeField bits.
uint32_t FieldsGiven(const RopeFlags& f) {
  uint32_t given = 0;
  if (f.factor) given |= kRopeFactor;
  if (f.original_context) given |= kRopeOriginalContext;
  if (f.context) given |= kRopeContext;
  if (f.low_freq_factor || f.high_freq_factor) given |= kRopeLowHighFreqFactor;
  if (f.beta_fast || f.beta_slow) given |= kRopeBetas;
  if (f.attention_factor) given |= kRopeAttentionFactor;
  if (f.power_exponent) given |= kRopePowerExponent;
  if (f.truncation_context) given |= kRopeTruncationContext;
  if (f.cut_context) given |= kRopeCutContext;
  if (!f.factor_file.empty()) given |= kRopeFactorLists;
  return given;
}

Status CheckFieldsAreRead(const RopeFlags& flags, const PositionMethodInfo& method) {
  const uint32_t unread = FieldsGiven(flags) & ~method.reads;
  if (unread == 0) return Status::Ok();
  return InvalidArgument(fmt::format("rope: {} reads {}, found {}", method.id,
                                     method.reads == 0
                                         ? "expected only --rope-freq-base"
                                         : "expected of " + RopeFlagNames(method.reads),
                                     RopeFlagNames(unread)));
}

template <typename T>
void Set(const std::optional<T>& flag, T* field) {
  if (flag) *field = *flag;
}

}  // namespace

Status ReadFactorFile(const std::string& path, RopeParams* rope) {
  PHASOR_ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxFactorFileBytes));
  const Json j = Json::parse(text, nullptr, false);
  const auto list = [&](const char* key, std::vector<float>* out) {
    const auto it = j.find(key);
    bool good = it != j.end() && it->is_array();
    for (const Json& value : good ? *it : Json::array()) good = good && value.is_number();
    if (good) *out = it->get<std::vector<float>>();
    return good;
  };
  if (!j.is_object() || !list("short_factor", &rope->short_factors) ||
      !list("long_factor", &rope->long_factors)) {
    return DataCorrupt("rope: " + path +
                       ": expected a JSON object with the lists short_factor and long_factor");
  }
  return Status::Ok();
}

std::string RopeFlagNames(uint32_t reads) {
  std::string names;
  for (const FieldFlag& f : kFieldFlags) {
    if ((reads & f.field) != 0) names += (names.empty() ? "" : ", ") + std::string(f.flags);
  }
  return names;
}

void AddRopeFlags(CLI::App* c, RopeFlags* f) {
  c->add_option("--rope-scaling", f->method,
                "position schedule of this request instead of the model's own; see phasor methods")
      ->check(OneOf(MethodIds()));
  c->add_option("--rope-scale", f->factor, "context extension factor")->check(Number());
  c->add_option("--rope-freq-base", f->theta_base, "frequency base")->check(Number());
  c->add_option("--yarn-orig-ctx", f->original_context,
                "trained context before extension, for every schedule that asks for it")
      ->check(Integer(1, int64_t{1} << 40));
  c->add_option("--yarn-attn-factor", f->attention_factor,
                "yarn: times 0.1 ln(scale) + 1; longrope: the whole attention factor")
      ->check(Number());
  c->add_option("--yarn-beta-fast", f->beta_fast, "turns from which a pair is kept")
      ->check(Number());
  c->add_option("--yarn-beta-slow", f->beta_slow, "turns up to which a pair is interpolated")
      ->check(Number());
  c->add_option("--rope-context", f->context,
                "dynamic_ntk, longrope: the context to scale for (default: -c)")
      ->check(Integer(1, int64_t{1} << 40));
  c->add_option("--rope-low-freq-factor", f->low_freq_factor, "llama3")->check(Number());
  c->add_option("--rope-high-freq-factor", f->high_freq_factor, "llama3")->check(Number());
  c->add_option(
       "--rope-power", f->power_exponent,
       fmt::format("giraffe_power: the exponent (default: {})", RopeParams().power_exponent))
      ->check(Number());
  c->add_option("--rope-truncate-ctx", f->truncation_context,
                "giraffe_truncated: its length in tokens (default: the trained context)")
      ->check(Integer(1));
  c->add_option("--rope-cut-ctx", f->cut_context,
                "hope: slower pairs than one turn in this are not turned (default: the trained "
                "context)")
      ->check(Integer(0));
  c->add_option("--rope-factors", f->factor_file,
                "longrope: JSON file with the lists short_factor and long_factor");
}

Result<std::optional<RopeParams>> RopeOverride(const RopeFlags& flags, const RopeParams& own) {
  const uint32_t given = FieldsGiven(flags);
  if (flags.method.empty() && given == 0 && !flags.theta_base) return std::optional<RopeParams>();
  RopeParams rope = own;
  if (!flags.method.empty()) {
    // llama.cpp's word for no scaling.
    rope.method = flags.method == "none" ? "rope" : flags.method;
  } else if (rope.method == "rope" && flags.factor) {
    rope.method = "linear";
  }
  const PositionMethodInfo* method = FindPositionMethod(rope.method);
  if (method == nullptr) return MakePhaseTable(rope).status();
  PHASOR_RETURN_IF_ERROR(CheckFieldsAreRead(flags, *method));
  if (rope.method != own.method || flags.factor) rope.attention_factor = 0;
  Set(flags.factor, &rope.factor);
  Set(flags.theta_base, &rope.theta_base);
  Set(flags.original_context, &rope.original_context);
  Set(flags.context, &rope.context);
  Set(flags.low_freq_factor, &rope.low_freq_factor);
  Set(flags.high_freq_factor, &rope.high_freq_factor);
  Set(flags.beta_fast, &rope.beta_fast);
  Set(flags.beta_slow, &rope.beta_slow);
  Set(flags.power_exponent, &rope.power_exponent);
  Set(flags.truncation_context, &rope.truncation_context);
  Set(flags.cut_context, &rope.cut_context);
  if (flags.attention_factor) {
    if (!(*flags.attention_factor > 0)) {
      return InvalidArgument(fmt::format("rope: expected a positive --yarn-attn-factor, found {}",
                                         *flags.attention_factor));
    }
    rope.attention_factor = *flags.attention_factor;
    // A factor that yarn refuses is for yarn to refuse.
    if (rope.method == "yarn" && rope.factor >= 1) {
      rope.attention_factor *= 0.1 * std::log(rope.factor) + 1.0;
    }
  }
  if (!flags.factor_file.empty()) {
    PHASOR_RETURN_IF_ERROR(ReadFactorFile(flags.factor_file, &rope));
  }
  return std::optional<RopeParams>(std::move(rope));
}

Result<SessionOptions> ToSessionOptions(const CacheFlags& cache, const RopeFlags& rope,
                                        const ModelConfig& config) {
  SessionOptions options = ToSessionOptions(cache);
  PHASOR_ASSIGN_OR_RETURN(options.rope, RopeOverride(rope, config.rope));
  return options;
}

const RopeParams& RopeOf(const SessionOptions& options, const ModelConfig& config) {
  return options.rope ? *options.rope : config.rope;
}

Json RopeJson(const RopeParams& rope) {
  Json j = {{"method", rope.method}, {"theta_base", rope.theta_base}};
  const PositionMethodInfo* method = FindPositionMethod(rope.method);
  const uint32_t reads = method == nullptr ? 0 : method->reads;
  if (reads & kRopeFactor) j["factor"] = rope.factor;
  if (reads & kRopeOriginalContext) j["original_context"] = rope.original_context;
  if (reads & kRopeContext && rope.context > 0) j["context"] = rope.context;
  if (reads & kRopePowerExponent) j["power_exponent"] = rope.power_exponent;
  return j;
}

std::string RopeNotice(const RopeFlags& flags) {
  if (flags.method != "nope") return "";
  return "rope: nope turns nothing (NoPE), which models trained with RoPE cannot use; without "
         "scaling "
         "is --rope-scaling rope or none";
}

}  // namespace phasor::cli
