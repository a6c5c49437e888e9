#include "formats/chat_template.h"

#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/jinja/eval.h"
#include "formats/jinja/parser.h"
#include "formats/json_check.h"

namespace phasor {
namespace {

constexpr std::size_t kMaxSourceBytes = std::size_t{1} << 20;  // the largest known are 40 KB

Status ToStatus(const jinja::TemplateError& error) {
  return {error.code, "chat template: line " + std::to_string(error.line) + ": " + error.message};
}

Status OutOfMemory() { return ResourceExhausted("chat template: out of memory"); }

// One JSON object as template variables.
Result<jinja::Value> ParseContext(std::string_view json) {
  PHASOR_RETURN_IF_ERROR(CheckJsonObject(json, "chat template: context"));
  try {
    return jinja::Value::FromJson(nlohmann::ordered_json::parse(json));
  } catch (const nlohmann::json::exception&) {
    return InvalidArgument("chat template: context: expected valid JSON, found an error");
  } catch (const jinja::TemplateError& error) {
    return InvalidArgument("chat template: context: " + error.message);
  }
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Block block;

  Result<std::string> Render(const jinja::Value& context) const {
    try {
      return jinja::Render(block, context);
    } catch (const jinja::TemplateError& error) {
      return ToStatus(error);
    }
  }
};

ChatTemplate::ChatTemplate() : impl_(std::make_unique<Impl>()) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return InvalidArgument("chat template: expected at most " + std::to_string(kMaxSourceBytes) +
                           " bytes, found " + std::to_string(source.size()));
  }
  try {
    ChatTemplate result;
    result.impl_->block = jinja::Parse(source);
    return result;
  } catch (const jinja::TemplateError& error) {
    return ToStatus(error);
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

Result<std::string> ChatTemplate::Render(const ChatTemplateInputs& inputs) const {
  using jinja::Value;
  try {
    jinja::Dict context;
    auto set = [&](const char* name, Value value) {
      context.Set(Value::String(name), std::move(value));
    };
    std::vector<Value> messages;
    for (const ChatMessage& message : inputs.messages) {
      jinja::Dict entry;
      entry.Set(Value::String("role"), Value::String(message.role));
      entry.Set(Value::String("content"), Value::String(message.content));
      messages.push_back(Value::FromDict(std::move(entry)));
    }
    set("messages", Value::List(std::move(messages)));
    // Hugging Face always passes these two, and templates test them with "is not none".
    set("tools", Value::None());
    set("documents", Value::None());
    set("add_generation_prompt", Value::Bool(inputs.add_generation_prompt));
    set("bos_token", Value::String(inputs.bos_token));
    set("eos_token", Value::String(inputs.eos_token));
    if (!inputs.extra_json.empty()) {
      PHASOR_ASSIGN_OR_RETURN(Value extra, ParseContext(inputs.extra_json));
      for (const auto& [name, value] : extra.dict().entries) context.Set(name, value);
    }
    return impl_->Render(Value::FromDict(std::move(context)));
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

Result<std::string> ChatTemplate::RenderJson(std::string_view context_json) const {
  try {
    PHASOR_ASSIGN_OR_RETURN(jinja::Value context, ParseContext(context_json));
    return impl_->Render(context);
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

}  // namespace phasor
