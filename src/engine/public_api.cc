// include/phasor/phasor.h over the engine. The last line of defence against exceptions: what the
// standard library throws becomes a Status here.
#include <exception>
#include <new>

#include "engine/engine.h"
#include "engine/rewrite.h"
#include "phasor/phasor.h"

namespace phasor {
namespace {

template <typename Fn>
auto Guard(Fn fn) -> decltype(fn()) {
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("phasor: out of memory");
  } catch (const std::exception& e) {
    return Internal(std::string("phasor: ") + e.what());
  }
}

}  // namespace

struct Model::Impl {
  std::unique_ptr<LoadedModel> model;
};

struct Context::Impl {
  std::unique_ptr<Session> session;
};

struct CachedText::Impl {
  TextSpan span;
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;
Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;
Context::~Context() = default;
CachedText::CachedText(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CachedText::CachedText(CachedText&&) noexcept = default;
CachedText& CachedText::operator=(CachedText&&) noexcept = default;
CachedText::~CachedText() = default;

std::span<const int32_t> CachedText::tokens() const { return impl_->span.tokens; }

Result<Model> Model::Load(const ModelParams& params) {
  return Guard([&]() -> Result<Model> {
    LoadOptions options;
    options.path = params.path;
    options.n_threads = params.n_threads;
    options.precision = params.exact ? MatMulPrecision::kF32 : MatMulPrecision::kInt8;
    options.calibration_path = params.calibration_path;
    auto impl = std::make_unique<Impl>();
    PHASOR_ASSIGN_OR_RETURN(impl->model, LoadedModel::Load(options));
    return Model(std::move(impl));
  });
}

ModelInfo Model::info() const {
  const LoadedModel& m = *impl_->model;
  const ModelConfig& c = m.config();
  return {.architecture = c.architecture,
          .name = c.name,
          .n_layers = c.n_layers,
          .d_model = c.d_model,
          .n_heads = c.n_heads,
          .n_kv_heads = c.n_kv_heads,
          .head_dim = c.head_dim,
          .n_vocab = c.n_vocab,
          .n_ctx_train = c.n_ctx_train,
          .n_params = m.n_params(),
          .weight_bytes = m.weight_bytes(),
          .has_chat_template = m.chat_template() != nullptr,
          .has_calibration = m.calibration() != nullptr};
}

std::vector<int32_t> Model::Tokenize(std::string_view text, bool parse_special) const {
  EncodeOptions options;
  options.parse_special = parse_special;
  return impl_->model->tokenizer().Encode(text, options);
}

std::string Model::Detokenize(std::span<const int32_t> tokens) const {
  return impl_->model->tokenizer().Decode(tokens, true);
}

Result<std::string> Model::ApplyChatTemplate(std::span<const Message> messages) const {
  return Guard([&]() -> Result<std::string> {
    const LoadedModel& m = *impl_->model;
    if (m.chat_template() == nullptr) {
      if (!m.chat_template_error().ok()) return m.chat_template_error();
      return Unsupported("chat: the model has no chat template");
    }
    ChatTemplateInputs inputs;
    for (const Message& message : messages) {
      inputs.messages.push_back({message.role, message.content});
    }
    const Tokenizer& t = m.tokenizer();
    if (t.bos_id() >= 0) inputs.bos_token = t.TokenBytes(t.bos_id(), false);
    if (t.eos_id() >= 0) inputs.eos_token = t.TokenBytes(t.eos_id(), false);
    return m.chat_template()->Render(inputs);
  });
}

Result<Context> Model::NewContext(const ContextParams& params) const {
  return Guard([&]() -> Result<Context> {
    SessionOptions options;
    options.n_ctx = params.n_ctx;
    options.type_k = params.type_k;
    options.type_v = params.type_v;
    options.n_sink = params.n_sink;
    options.n_recent = params.n_recent;
    options.n_batch = params.n_batch;
    options.context_shift = params.context_shift;
    options.n_keep = params.n_keep;
    auto impl = std::make_unique<Context::Impl>();
    PHASOR_ASSIGN_OR_RETURN(impl->session, Session::Create(*impl_->model, options));
    return Context(std::move(impl));
  });
}

Result<Context> Model::LoadContext(const std::string& path, const ContextParams& params) const {
  return Guard([&]() -> Result<Context> {
    PHASOR_ASSIGN_OR_RETURN(Context context, NewContext(params));
    PHASOR_RETURN_IF_ERROR(context.impl_->session->Load(path));
    return context;
  });
}

Status Context::Save(const std::string& path) const {
  return Guard([&]() -> Status { return impl_->session->Save(path); });
}

Status Context::Append(std::span<const int32_t> tokens) {
  return Guard([&]() -> Status { return impl_->session->Append(tokens, {}); });
}

std::span<const float> Context::logits() const { return impl_->session->logits(); }

Result<Answer> Context::Generate(const SamplingParams& params,
                                 const std::function<void(std::string_view)>& on_text) {
  return Guard([&]() -> Result<Answer> {
    GenerateOptions options;
    options.max_tokens = params.max_tokens;
    options.sampler.temperature = params.temperature;
    options.sampler.top_k = params.top_k;
    options.sampler.top_p = params.top_p;
    options.sampler.min_p = params.min_p;
    options.sampler.repeat_penalty = params.repeat_penalty;
    options.sampler.seed = params.seed;
    options.stop = params.stop;
    options.cancel = params.cancel;
    PHASOR_ASSIGN_OR_RETURN(GenerateResult result, impl_->session->Generate(options, on_text));
    return Answer{std::move(result.text), std::move(result.tokens),
                  FinishReasonName(result.reason)};
  });
}

Status Context::Truncate(int64_t n_tokens) {
  return Guard([&]() -> Status { return impl_->session->Truncate(n_tokens); });
}

Result<EditReport> Context::Rewrite(std::span<const int32_t> tokens, const EditParams& params) {
  return Guard([&]() -> Result<EditReport> {
    ReplaceOptions options;
    options.recompute = params.recompute;
    options.cancel = params.cancel;
    PHASOR_ASSIGN_OR_RETURN(const RewriteReport r, RewriteText(*impl_->session, tokens, options));
    return EditReport{r.n_hunks,        r.n_removed,      r.n_inserted,  r.n_read,
                      r.n_reused_exact, r.n_reused_stale, r.milliseconds};
  });
}

Result<EditReport> Context::Replace(int64_t begin, int64_t end, std::span<const int32_t> tokens,
                                    const EditParams& params) {
  return Guard([&]() -> Result<EditReport> {
    ReplaceOptions options;
    options.recompute = params.recompute;
    options.cancel = params.cancel;
    PHASOR_ASSIGN_OR_RETURN(const ReplaceReport r,
                            impl_->session->Replace(begin, end, tokens, options));
    return EditReport{1, r.n_removed, r.n_inserted, r.n_read, begin, r.n_reused, r.milliseconds};
  });
}

Status Context::Erase(int64_t begin, int64_t end) {
  return Guard([&]() -> Status { return impl_->session->Erase(begin, end); });
}

Status Context::Move(int64_t begin, int64_t end, int64_t to) {
  return Guard([&]() -> Status { return impl_->session->Move(begin, end, to); });
}

Status Context::Copy(int64_t begin, int64_t end, int64_t to) {
  return Guard([&]() -> Status { return impl_->session->Copy(begin, end, to); });
}

Status Context::Pin(int64_t begin, int64_t end, bool pinned) {
  return Guard([&]() -> Status { return impl_->session->Pin(begin, end, pinned); });
}

Result<CachedText> Context::Slice(int64_t begin, int64_t end) const {
  return Guard([&]() -> Result<CachedText> {
    auto impl = std::make_unique<CachedText::Impl>();
    PHASOR_ASSIGN_OR_RETURN(impl->span, impl_->session->Slice(begin, end));
    return CachedText(std::move(impl));
  });
}

Status Context::Attach(const CachedText& text) {
  return Guard([&]() -> Status { return impl_->session->Attach(text.impl_->span); });
}

Result<Context> Context::Fork() const {
  return Guard([&]() -> Result<Context> {
    auto impl = std::make_unique<Context::Impl>();
    PHASOR_ASSIGN_OR_RETURN(impl->session, impl_->session->Fork());
    return Context(std::move(impl));
  });
}

std::span<const int32_t> Context::tokens() const { return impl_->session->tokens(); }

CacheUse Context::cache_use() const {
  const CacheStats stats = impl_->session->cache_stats();
  return {stats.n_tokens, stats.used_bytes, stats.bits_per_element, stats.n_stale_tokens};
}

}  // namespace phasor
