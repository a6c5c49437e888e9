// The phasor program: one binary, one subcommand per job.
#include <fmt/format.h>

#include <csignal>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/command.h"
#include "phasor/version.h"

namespace {

// llama.cpp's short names with more than one letter, which the command-line library would read as
// bundles of single letters.
constexpr struct {
  const char* from;
  const char* to;
} kAliases[] = {
    {"-ctk", "--cache-type-k"},  {"-ctv", "--cache-type-v"},       {"-fa", "--flash-attn"},
    {"-sys", "--system-prompt"}, {"-no-cnv", "--no-conversation"}, {"-cnv", "--conversation"},
};

std::vector<std::string> NormalizeArguments(int argc, char** argv) {
  std::vector<std::string> args;
  for (int i = 1; i < argc; ++i) {
    std::string arg = argv[i];
    if (arg == "--") {
      for (; i < argc; ++i) args.emplace_back(argv[i]);
      break;
    }
    for (const auto& alias : kAliases) {
      if (arg == alias.from) arg = alias.to;
    }
    args.push_back(std::move(arg));
  }
  return args;
}

int Main(int argc, char** argv) {
  CLI::App app{"phasor: long-context language models with a polar KV cache", "phasor"};
  app.set_version_flag("--version", std::string("phasor ") + phasor::Version());
  app.require_subcommand(1);
  app.fallthrough(false);
  int exit_code = 0;
  phasor::cli::AddRunCommand(app, &exit_code);
  phasor::cli::AddInspectCommand(app, &exit_code);
  phasor::cli::AddTokenizeCommand(app, &exit_code);
  phasor::cli::AddEvalCommand(app, &exit_code);
  phasor::cli::AddBenchCommand(app, &exit_code);
  phasor::cli::AddCalibrateCommand(app, &exit_code);
  phasor::cli::AddMethodsCommand(app, &exit_code);
  try {
    std::vector<std::string> args = NormalizeArguments(argc, argv);
    std::reverse(args.begin(), args.end());  // the library takes them last first
    app.parse(std::move(args));
  } catch (const CLI::ParseError& e) {
    // Help and version are "errors" with code 0; everything else is a usage error.
    return app.exit(e) == 0 ? 0 : 2;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);
  try {
    return Main(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "phasor: error: out of memory\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "phasor: internal error: %s\n", e.what());
  }
  return 1;
}
