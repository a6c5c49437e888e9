// phasor methods [id]: the shelf.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/table.h"
#include "cli/command.h"
#include "cli/rope_flags.h"
#include "registry/kv_codec_table.h"
#include "registry/position_plan_table.h"
#include "registry/position_table.h"
#include "registry/weight_codec_table.h"

namespace phasor::cli {
namespace {

struct Entry {
  std::string kind, id, summary, source;
  std::string cost;   // bits, where that makes sense
  std::string flags;  // "KV, exact, calibrated"; of schedules: the flags that set them
};

std::vector<Entry> Shelf() {
  std::vector<Entry> shelf;
  for (const PositionMethodInfo* m : PositionMethods()) {
    shelf.push_back({"position", m->id, m->summary, m->source, "", RopeFlagNames(m->reads)});
  }
  for (const PositionPlanInfo* p : PositionPlans()) {
    shelf.push_back({"plan", p->id, p->summary, p->source, "", "exact"});
  }
  for (const KvCodecInfo& c : KvCodecs()) {
    std::string flags = std::string(c.for_keys ? "K" : "") + (c.for_values ? "V" : "");
    if (c.exact) flags += ", exact";
    if (c.uses_calibration) flags += ", calibrated";
    shelf.push_back({"kvcodec", c.id, c.summary, c.source,
                     fmt::format("{:.3g} / {:.3g}", c.nominal_bits_64, c.nominal_bits_128), flags});
  }
  for (const WeightCodecInfo* w : WeightCodecs()) {
    shelf.push_back({"wcodec", w->id, w->summary, "GGUF block format",
                     fmt::format("{:.3g}", w->bits_per_weight), w->is_float ? "float" : "integer"});
  }
  return shelf;
}

int Methods(const std::string& id, const std::string& format) {
  Table table({{"kind", Table::Align::kLeft},
               {"id", Table::Align::kLeft},
               {"bits (head 64 / 128)", Table::Align::kRight},
               {"holds", Table::Align::kLeft},
               {"what", Table::Align::kLeft},
               {"source", Table::Align::kLeft}});
  bool found = false;
  for (const Entry& e : Shelf()) {
    if (!id.empty() && e.id != id) continue;
    found = true;
    table.AddRow({e.kind, e.id, e.cost, e.flags, e.summary, e.source});
  }
  if (!found) {
    return Fail(NotFound("methods: expected an id from `phasor methods`, found " + id));
  }
  fmt::print("{}", table.Render(*ParseTableFormat(format)));
  return 0;
}

}  // namespace

void AddMethodsCommand(CLI::App& app, int* exit_code) {
  auto id = std::make_shared<std::string>();
  auto format = std::make_shared<std::string>("plain");
  CLI::App* c =
      app.add_subcommand("methods", "the shelf: every method, its paper, cost and limits");
  c->add_option("id", *id, "only this method");
  c->add_option("-o,--output", *format, "plain, md, csv or json")
      ->check(OneOf({"plain", "md", "csv", "json"}));
  c->add_flag_callback(
      "--json", [format] { *format = "json"; }, "same as -o json");
  c->callback([id, format, exit_code] { *exit_code = Methods(*id, *format); });
}

}  // namespace phasor::cli
