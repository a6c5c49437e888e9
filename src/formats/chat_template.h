// Chat templates: the subset of Jinja that model files use, rendered to a prompt.
//
// Statements: for (with loop.*, else, recursive unpacking), if/elif/else, set (also namespace
// attributes and blocks), macro, call-free filters and tests, generation blocks, break/continue.
// Functions: raise_exception, strftime_now, namespace, range, dict. A construct outside the subset
// is an error with line number, never silently dropped output.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "phasor/status.h"

namespace phasor {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

struct ChatTemplateInputs {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;
  std::string bos_token, eos_token;
  // Extra variables as one JSON object (tools, enable_thinking, ...); empty: none.
  std::string extra_json;
};

class ChatTemplate {
 public:
  static Result<ChatTemplate> Parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // kInvalidArgument carries the template's own raise_exception text.
  Result<std::string> Render(const ChatTemplateInputs& inputs) const;
  // The same with the whole context as one JSON object.
  Result<std::string> RenderJson(std::string_view context_json) const;

 private:
  ChatTemplate();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace phasor
