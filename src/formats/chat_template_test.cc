#include "formats/chat_template.h"

#include <gtest/gtest.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace phasor {
namespace {

using Json = nlohmann::ordered_json;

Result<std::string> RenderText(const std::string& source, const std::string& context = "{}") {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->RenderJson(context);
}

std::string Error(const std::string& source, const std::string& context = "{}") {
  auto result = RenderText(source, context);
  return result.ok() ? "no error, but: " + *result : result.status().message();
}

const Json& Golden() {
  static const Json* golden = [] {
    auto text = ReadFile(PHASOR_SOURCE_DIR "/tests/golden/templates.json");
    return new Json(text.ok() ? Json::parse(*text) : Json::object());
  }();
  return *golden;
}

// Golden rows hold null where Jinja reports an error; then this must be an error as well.
void ExpectGolden(const std::string& source, const Json& context, const Json& expected,
                  const std::string& label) {
  auto rendered = RenderText(source, context.dump());
  if (expected.is_null()) {
    EXPECT_FALSE(rendered.ok()) << label << "\n" << *rendered;
  } else {
    ASSERT_TRUE(rendered.ok()) << label << "\n" << rendered.status().message();
    EXPECT_EQ(*rendered, expected.get<std::string>()) << label;
  }
}

TEST(ChatTemplate, ModelTemplatesRenderAsWithJinja) {
  const Json& golden = Golden();
  ASSERT_GE(golden["rendered"].size(), 70u);
  for (const Json& row : golden["rendered"]) {
    std::string name = row["template"], which = row["case"];
    ExpectGolden(golden["templates"][name], golden["cases"][which], row["text"],
                 name + " / " + which);
  }
}

TEST(ChatTemplate, EveryPieceOfTheLanguageRendersAsWithJinja) {
  const Json& golden = Golden();
  ASSERT_GE(golden["snippets"].size(), 60u);
  for (const Json& row : golden["snippets"]) {
    ExpectGolden(row["source"], golden["snippet_context"], row["text"], row["source"]);
  }
}

TEST(ChatTemplate, RenderBuildsTheContextOfHuggingFace) {
  auto parsed = ChatTemplate::Parse(
      "{{ bos_token }}{% for m in messages %}{{ m.role ~ ':' ~ m.content }};{% endfor %}"
      "{{ tools is none }}{{ tools is defined }}{{ add_generation_prompt }}{{ extra.k }}");
  ASSERT_TRUE(parsed.ok());
  ChatTemplateInputs inputs;
  inputs.messages = {{"user", "a"}, {"assistant", "b"}};
  inputs.bos_token = "<s>";
  inputs.extra_json = R"({"extra": {"k": [1, "x"]}})";
  auto text = parsed->Render(inputs);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_EQ(*text, "<s>user:a;assistant:b;TrueTrueTrue[1, 'x']");
  inputs.extra_json = R"({"tools": [1], "messages": []})";
  inputs.add_generation_prompt = false;
  text = parsed->Render(inputs);
  ASSERT_FALSE(text.ok());  // extra is undefined now
  EXPECT_NE(text.status().message().find("'extra' is undefined"), std::string::npos);
}

TEST(ChatTemplate, DefaultModelPromptIsExact) {
  auto parsed = ChatTemplate::Parse(Golden()["templates"]["default_model"].get<std::string>());
  ASSERT_TRUE(parsed.ok());
  ChatTemplateInputs inputs;
  inputs.messages = {{"system", "Be brief."}, {"user", "Hi"}};
  EXPECT_EQ(*parsed->Render(inputs),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplate, BytesThatAreNotUtf8PassThrough) {
  auto parsed =
      ChatTemplate::Parse("{{ messages[0].content | trim }}|{{ messages[0].content[1] }}");
  ChatTemplateInputs inputs;
  inputs.messages = {{"user", " \xff\xe4\xb8 "}};
  EXPECT_EQ(*parsed->Render(inputs), "\xff\xe4\xb8|\xff");
}

TEST(ChatTemplate, StrftimeNowIsLocalTime) {
  std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char year[8];
  std::strftime(year, sizeof year, "%Y", &local);
  EXPECT_EQ(*RenderText("{{ strftime_now('%Y') }}"), year);
}

TEST(ChatTemplate, ErrorsNameTheLineAndTheCause) {
  EXPECT_EQ(Error("a\n\n{{ raise_exception('only user turns') }}"),
            "chat template: line 3: only user turns");
  EXPECT_EQ(Error("{{ nothing.here }}"), "chat template: line 1: 'nothing' is undefined");
  EXPECT_EQ(Error("{% set x = {} %}\n{{ x.a.b }}"),
            "chat template: line 2: 'dict object' has no attribute 'a'");
  EXPECT_EQ(Error("x\n{% include 'y' %}"),
            "chat template: line 2: unsupported statement 'include'");
  EXPECT_EQ(Error("{{ 1|frobnicate }}"), "chat template: line 1: unsupported filter 'frobnicate'");
  EXPECT_EQ(Error("{{ 1 is frob }}"), "chat template: line 1: unsupported test 'frob'");
  EXPECT_EQ(Error("{% if 1 %}\n"),
            "chat template: line 1: expected {% endif %}, found the end of the template");
  EXPECT_EQ(Error("{{ [1].append(2) }}"),
            "chat template: line 1: 'append' would change a list, which templates may not");
  EXPECT_EQ(RenderText("{{ raise_exception('x') }}").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RenderText("{% extends 'x' %}").status().code(), StatusCode::kUnsupported);
}

TEST(ChatTemplate, DamagedContextsAreErrors) {
  for (const char* context : {"", "[]", "{", "{\"a\": \"\xff\"}", "null"}) {
    EXPECT_FALSE(RenderText("{{ a }}", context).ok()) << context;
  }
  std::string deep = "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_FALSE(RenderText("{{ a }}", deep).ok());
}

// Templates that would hang, fill the memory or overflow the stack.
TEST(ChatTemplate, HostileTemplatesEndWithAnError) {
  const std::string open(50000, '('), minus(50000, '-'), brackets(50000, '[');
  std::string dots = "{{ a", ifs, filters = "{{ 1", nots = "{{ ";
  for (int i = 0; i < 5000; ++i) {
    dots += ".a", ifs += "{% if 1 %}", filters += "|list", nots += "not ";
  }
  for (const std::string& source :
       {"{{ " + open + " }}", "{{ " + minus + "1 }}", "{{ " + brackets + " }}", dots + " }}", ifs,
        filters + " }}", nots + "1 }}"}) {
    EXPECT_FALSE(ChatTemplate::Parse(source).ok()) << source.substr(0, 40);
  }
  for (const char* source : {
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
           "{% endfor %}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}"
           "{% endfor %}",
           "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}"
           "{% endfor %}{{ ns.l }}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}"
           "{% endfor %}{{ ns.l }}",
           "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(99) %}"
           "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% macro m() %}{{ m() ~ m() }}{% endmacro %}{{ m() }}",
           "{{ 'x' * 999999999999 }}",
           "{{ [1] * 999999999999 }}",
           "{{ 'x'.center(999999999999) }}",
           "{{ ('x' * 60000).replace('x', 'y' * 60000) }}",
           "{{ range(99999)|batch(1)|list|tojson(indent=64)|list|join('z' * 99999) }}",
           "{{ 9 ** 99 }}",
           "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
           "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x == [ns.x] }}{{ 1/0 }}",
       }) {
    auto result = RenderText(source);
    EXPECT_FALSE(result.ok()) << source;
    EXPECT_LT(result.status().message().size(), 300u) << source;
  }
}

TEST(ChatTemplate, LongChainsAndManyTurnsAreFine) {
  std::string sum = "{{ 1", concat = "{{ ''";
  for (int i = 0; i < 3000; ++i) sum += " + 1", concat += " ~ 'a'";
  EXPECT_EQ(*RenderText(sum + " }}"), "3001");
  EXPECT_EQ(RenderText(concat + " }}")->size(), 3000u);
  auto parsed = ChatTemplate::Parse(Golden()["templates"]["qwen"].get<std::string>());
  ChatTemplateInputs inputs;
  for (int i = 0; i < 5000; ++i) inputs.messages.push_back({i % 2 ? "assistant" : "user", "text"});
  auto text = parsed->Render(inputs);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_GT(text->size(), 5000u * 20);
}

TEST(ChatTemplate, MacrosAndNamespacesMayReferToThemselves) {
  // Leak checkers see the cycles when they are not cut.
  EXPECT_EQ(*RenderText("{% set ns = namespace() %}{% set ns.me = ns %}"
                        "{% macro m() %}{% set f = m %}x{% endmacro %}{% set ns.m = m %}"
                        "{{ ns.me.me.m() }}"),
            "x");
}

}  // namespace
}  // namespace phasor
