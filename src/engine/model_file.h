// A model on disk, GGUF or Hugging Face folder, behind one face: for loading and for inspection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "formats/tokenizer.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "phasor/status.h"

namespace phasor {

// Exactly one of gguf and hf is set. Borrowed views stay valid while the object lives.
struct ModelFile {
  std::unique_ptr<GgufFile> gguf;
  std::unique_ptr<HfFolder> hf;

  static Result<ModelFile> Open(const std::string& path);
  Result<ModelConfig> ReadConfig() const;
  Result<std::unique_ptr<Tokenizer>> LoadTokenizer() const;
  WeightSource Weights() const;
  const std::vector<TensorView>& tensors() const;
  std::size_t size_bytes() const;
  int64_t CountParams() const;
  std::string MainWeightType() const;  // the type most weights have, "Q4_1"
};

// A tokenizer with more tokens than the embedding has rows would read past its end.
Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config);

}  // namespace phasor
