#include <algorithm>
#include <map>
#include <system_error>

#include "engine/engine.h"
#include "engine/model_file.h"
#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "model/calibration.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "registry/position_table.h"
#include "registry/weight_codec_table.h"

namespace phasor {

Result<ModelFile> ModelFile::Open(const std::string& path) {
  ModelFile file;
  if (IsDirectory(path)) {
    PHASOR_ASSIGN_OR_RETURN(HfFolder folder, HfFolder::Open(path));
    file.hf = std::make_unique<HfFolder>(std::move(folder));
  } else {
    PHASOR_ASSIGN_OR_RETURN(GgufFile gguf, GgufFile::Open(path));
    file.gguf = std::make_unique<GgufFile>(std::move(gguf));
  }
  return file;
}

Result<ModelConfig> ModelFile::ReadConfig() const {
  return gguf ? ReadModelConfig(*gguf) : ReadModelConfig(*hf);
}

WeightSource ModelFile::Weights() const {
  return gguf ? WeightSource(gguf.get()) : WeightSource(hf.get());
}

const std::vector<TensorView>& ModelFile::tensors() const {
  return gguf ? gguf->tensors() : hf->tensors();
}

std::size_t ModelFile::size_bytes() const { return gguf ? gguf->size_bytes() : hf->size_bytes(); }

Result<std::unique_ptr<Tokenizer>> ModelFile::LoadTokenizer() const {
  return gguf ? Tokenizer::FromGguf(*gguf) : Tokenizer::FromHfFolder(hf->path());
}

int64_t ModelFile::CountParams() const {
  int64_t n = 0;
  for (const TensorView& t : tensors()) n += t.n_elements();
  return n;
}

std::string ModelFile::MainWeightType() const {
  std::map<std::string, int64_t> elements;
  for (const TensorView& t : tensors()) {
    if (t.n_dims >= 2) elements[GgufTypeName(t.gguf_type)] += t.n_elements();
  }
  std::string best = "none";
  int64_t most = 0;
  for (const auto& [name, n] : elements) {
    if (n > most) {
      most = n;
      best = name;
    }
  }
  return best;
}

Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocab_size() <= config.n_vocab) return Status::Ok();
  return DataCorrupt("model: tokenizer: expected at most the embedding's " +
                     std::to_string(config.n_vocab) + " tokens, found " +
                     std::to_string(tokenizer.vocab_size()));
}

LoadedModel::LoadedModel() = default;
LoadedModel::~LoadedModel() = default;

const ModelConfig& LoadedModel::config() const { return transformer_->config(); }
std::size_t LoadedModel::weight_bytes() const { return transformer_->weights().bytes; }

namespace {

// An explicit path must work; otherwise the first file that is there and fits is taken, and one
// that is there but damaged or foreign is an error, not skipped.
Result<std::unique_ptr<Calibration>> FindCalibration(const LoadOptions& options,
                                                     const ModelConfig& config,
                                                     const std::string& fingerprint) {
  std::vector<std::string> paths = CalibrationPaths(options.path, fingerprint);
  if (!options.calibration_path.empty()) paths = {options.calibration_path};
  for (const std::string& path : paths) {
    if (options.calibration_path.empty() && !FileExists(path)) continue;
    PHASOR_ASSIGN_OR_RETURN(Calibration calibration, Calibration::Read(path));
    PHASOR_RETURN_IF_ERROR(calibration.CheckFits(config, fingerprint));
    return std::make_unique<Calibration>(std::move(calibration));
  }
  return std::unique_ptr<Calibration>();
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::Load(const LoadOptions& options) {
  std::unique_ptr<LoadedModel> m(new LoadedModel());
  m->path_ = options.path;
  PHASOR_ASSIGN_OR_RETURN(ModelFile file, ModelFile::Open(options.path));
  m->file_ = std::make_unique<ModelFile>(std::move(file));
  PHASOR_ASSIGN_OR_RETURN(ModelConfig config, m->file_->ReadConfig());
  PHASOR_ASSIGN_OR_RETURN(m->tokenizer_, m->file_->LoadTokenizer());
  PHASOR_RETURN_IF_ERROR(CheckVocabulary(*m->tokenizer_, config));
  if (!m->tokenizer_->chat_template().empty()) {
    // A template outside the supported subset only matters to those who chat.
    auto parsed = ChatTemplate::Parse(m->tokenizer_->chat_template());
    if (parsed.ok()) {
      m->chat_template_ = std::make_unique<ChatTemplate>(std::move(parsed).value());
    } else {
      m->chat_template_error_ = parsed.status();
    }
  }
  PHASOR_ASSIGN_OR_RETURN(PhaseTable phases, MakePhaseTable(config.rope));
  const int n_threads = options.n_threads > 0 ? options.n_threads : DefaultThreadCount();
  try {
    m->pool_ = std::make_unique<ThreadPool>(n_threads);
  } catch (const std::system_error& e) {
    return ResourceExhausted("threads: expected to start " + std::to_string(n_threads) +
                             ", found the limit of the system (" + e.code().message() +
                             "); lower -t");
  }
  m->file_bytes_ = m->file_->size_bytes();
  m->n_params_ = m->file_->CountParams();
  m->weight_type_ = m->file_->MainWeightType();
  const WeightSource source = m->file_->Weights();
  if (options.use_calibration) {
    PHASOR_ASSIGN_OR_RETURN(m->calibration_,
                            FindCalibration(options, config, WeightFingerprint(source, config)));
  }
  PHASOR_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(source, config,
                                                            {.precision = options.precision,
                                                             .find_codec = FindWeightCodec,
                                                             .on_progress = options.on_progress},
                                                            *m->pool_));
  m->transformer_ =
      std::make_unique<Transformer>(std::move(config), std::move(weights), std::move(phases));
  return m;
}

}  // namespace phasor
