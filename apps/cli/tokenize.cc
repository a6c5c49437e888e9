// phasor tokenize MODEL FILE: text to token ids, one line of the file at a time.
#include <fmt/format.h>

#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/command.h"
#include "engine/model_file.h"

namespace phasor::cli {
namespace {

struct TokenizeFlags {
  std::string model, file;
  bool json = false, no_special = false, no_parse_special = false, pieces = false,
       keep_bytes = false;
};

int Tokenize(const TokenizeFlags& flags) {
  auto file = ModelFile::Open(flags.model);
  if (!file.ok()) return Fail(file.status());
  auto tokenizer = file->LoadTokenizer();
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  std::string text;
  if (flags.file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  } else {
    auto read = ReadFile(flags.file);
    if (!read.ok()) return Fail(read.status());
    text = std::move(*read);
  }
  const EncodeOptions options{
      .add_special = !flags.no_special,
      .parse_special = !flags.no_parse_special,
      // As Hugging Face sees a file that is not valid UTF-8.
      .invalid_utf8 = flags.keep_bytes ? InvalidUtf8::kKeepBytes : InvalidUtf8::kReplace};
  // Lines are what lies between line feeds; a last line feed does not start another line.
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    const std::vector<int32_t> ids =
        (*tokenizer)->Encode(std::string_view(text).substr(begin, end - begin), options);
    if (flags.json) {
      out += fmt::format("[{}]\n", fmt::join(ids, ","));
    } else if (flags.pieces) {
      for (int32_t id : ids) {
        const nlohmann::json piece = (*tokenizer)->TokenBytes(id, false);
        out += fmt::format("{:>7} {}\n", id,
                           piece.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
      }
    } else {
      out += fmt::format("{}\n", fmt::join(ids, " "));
    }
    if (out.size() > 1 << 16) {
      std::fwrite(out.data(), 1, out.size(), stdout);
      out.clear();
    }
    begin = end + 1;
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  return 0;
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* c = app.add_subcommand("tokenize", "token ids of each line of a file");
  c->add_option("model", flags->model, "GGUF file or Hugging Face folder")->required();
  c->add_option("file", flags->file, "text file, - for stdin")->required();
  c->add_flag("--json", flags->json, "one JSON array of ids per line");
  c->add_flag("--pieces", flags->pieces, "each id with its text");
  c->add_flag("--no-special", flags->no_special, "no BOS or EOS even if the model asks for them");
  c->add_flag("--no-parse-special", flags->no_parse_special,
              "text that looks like a special token stays text");
  c->add_flag("--keep-bytes", flags->keep_bytes,
              "encode invalid UTF-8 byte by byte instead of as U+FFFD");
  c->callback([flags, exit_code] { *exit_code = Tokenize(*flags); });
}

}  // namespace phasor::cli
