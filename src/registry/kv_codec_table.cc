#include "registry/kv_codec_table.h"

#include <new>
#include <string>
#include <vector>

#include "kvcodec/kvcodec.h"

namespace phasor {
namespace {

// One line per codec. The entries are copies because a span needs them side by side; they are made
// on first use, since constants of other files may not exist yet during static initialisation.
const std::vector<KvCodecInfo>& Table() {
  static const std::vector<KvCodecInfo> table = {
      // clang-format off
      kF32KvCodec,
      kF16KvCodec,
      kBf16KvCodec,
      kQ8_0KvCodec,
      kQ8_0hKvCodec,
      kQ4_0KvCodec,
      kQ4_0hKvCodec,
      kQ4HeadKvCodec,
      kQ3HeadKvCodec,
      kFrame4KvCodec,
      kFrame3KvCodec,
      kPolarKvCodec,
      kPolar33KvCodec,
      kPolar34KvCodec,
      kPolar35KvCodec,
      kPolar44KvCodec,
      kPolar45KvCodec,
      kPolar55KvCodec,
      kPolar33Cut0KvCodec,
      kPolar44Cut0KvCodec,
      kInt4ChannelKvCodec,
      kInt3ChannelKvCodec,
      // clang-format on
  };
  return table;
}

constexpr std::string_view kRowIds[] = {"f32", "f16", "bf16"};

const char* RoleName(KvRole role) { return role == KvRole::kKey ? "keys" : "values"; }

bool HoldsRole(const KvCodecInfo& info, KvRole role) {
  return role == KvRole::kKey ? info.for_keys : info.for_values;
}

std::string IdsForRole(KvRole role) {
  std::string ids;
  for (const KvCodecInfo& info : Table()) {
    if (!HoldsRole(info, role)) continue;
    if (!ids.empty()) ids += ", ";
    ids += info.id;
  }
  return ids;
}

}  // namespace

std::span<const KvCodecInfo> KvCodecs() { return Table(); }

const KvCodecInfo* FindKvCodec(std::string_view id) {
  for (const KvCodecInfo& info : Table()) {
    if (id == info.id) return &info;
  }
  return nullptr;
}

Result<std::unique_ptr<KvCodec>> MakeKvCodec(std::string_view id, const KvCodecParams& params) {
  const KvCodecInfo* info = FindKvCodec(id);
  if (info == nullptr) {
    return InvalidArgument(std::string("kv codec: expected for ") + RoleName(params.role) +
                           " one of " + IdsForRole(params.role) + ", found '" + std::string(id) +
                           "'");
  }
  if (!HoldsRole(*info, params.role)) {
    return Unsupported(std::string("kv codec: expected for ") + RoleName(params.role) + " one of " +
                       IdsForRole(params.role) + ", found " + info->id + ", which cannot hold " +
                       RoleName(params.role));
  }
  try {
    return info->make(info->id, params);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(std::string("kv codec: out of memory while making ") + info->id);
  }
}

Result<std::unique_ptr<RowKvCodec>> MakeRowKvCodec(std::string_view id,
                                                   const KvCodecParams& params) {
  for (std::string_view row_id : kRowIds) {
    if (id != row_id) continue;
    PHASOR_ASSIGN_OR_RETURN(std::unique_ptr<KvCodec> codec, MakeKvCodec(id, params));
    // The ids of kRowIds are made by row codecs only; the contract test checks it with RTTI.
    return std::unique_ptr<RowKvCodec>(static_cast<RowKvCodec*>(codec.release()));
  }
  return InvalidArgument("kv codec: expected a row codec, one of f32, f16, bf16, found '" +
                         std::string(id) + "'");
}

}  // namespace phasor
