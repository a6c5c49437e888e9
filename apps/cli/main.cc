// The phasor program: one binary, one subcommand per job.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <system_error>
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

std::string JoinedNames(const CLI::App& app) {
  std::string names;
  for (const CLI::App* c : app.get_subcommands([](const CLI::App*) { return true; })) {
    names += (names.empty() ? "" : ", ") + c->get_name();
  }
  return names;
}

// The library's messages in the form every error of the program has: one line, what was expected
// and what was found.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& e, const std::string& first) {
  const CLI::App* at = &app;
  std::string where;
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    where += (where.empty() ? "" : " ") + at->get_name();
  }
  const std::string help =
      fmt::format(" (see `phasor{}{} --help`)", where.empty() ? "" : " ", where);
  if (!where.empty()) where += ": ";
  std::string what = e.what();
  auto after = [&](const std::string& mark) {
    const std::size_t found = what.find(mark);
    return found == std::string::npos ? what : what.substr(found + mark.size());
  };
  const bool wants_command = !at->get_subcommands([](const CLI::App*) { return true; }).empty();
  if (wants_command) {
    what = fmt::format("expected a command ({}), found {}", JoinedNames(*at),
                       where.empty() && !first.empty() ? first : "none");
  } else if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) {
    what = "expected no such argument, found " + after("expected: ");
  } else if (const auto at_end = what.rfind(" is required"); at_end != std::string::npos) {
    what = "expected " + what.substr(0, at_end) + ", found none";
  } else if (const auto missing = what.find(": 1 required "); missing != std::string::npos) {
    what = what.substr(0, missing) + ": expected a value, found none";
  }
  return where + what + help;
}

// What was printed may still sit in a buffer: a full disk shows only here.
int CheckOutput(int exit_code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fprintf(stderr, "phasor: error: stdout: cannot write: %s\n",
               errno != 0 ? std::strerror(errno) : "unknown error");
  return 1;
}

int Main(int argc, char** argv) {
  CLI::App app{"phasor: long-context language models with a polar KV cache", "phasor"};
  app.set_version_flag("--version", std::string("phasor ") + phasor::Version());
  app.require_subcommand(1);
  app.fallthrough(false);
  int exit_code = 0;
  phasor::cli::AddRunCommand(app, &exit_code);
  phasor::cli::AddEditSessionCommand(app, &exit_code);
  phasor::cli::AddChunksCommand(app, &exit_code);
  phasor::cli::AddInspectCommand(app, &exit_code);
  phasor::cli::AddTokenizeCommand(app, &exit_code);
  phasor::cli::AddEvalCommand(app, &exit_code);
  phasor::cli::AddBenchCommand(app, &exit_code);
  phasor::cli::AddCalibrateCommand(app, &exit_code);
  phasor::cli::AddMethodsCommand(app, &exit_code);
  phasor::cli::AddRankCommand(app, &exit_code);
  phasor::cli::AddReproduceCommand(app, &exit_code);
  phasor::cli::AddSynthCommand(app, &exit_code);
  std::vector<std::string> args = NormalizeArguments(argc, argv);
  const std::string first = args.empty() ? "" : args[0];
  try {
    std::reverse(args.begin(), args.end());  // the library takes them last first
    app.parse(std::move(args));
  } catch (const CLI::ParseError& e) {
    // Help and version are "errors" with code 0; everything else is a usage error.
    if (e.get_exit_code() == 0) return CheckOutput(app.exit(e));
    return phasor::cli::UsageError(UsageMessage(app, e, first));
  }
  return CheckOutput(exit_code);
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_DFL);
  try {
    return Main(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "phasor: error: out of memory\n");
  } catch (const std::system_error& e) {  // a write that failed, a thread that could not start
    std::fprintf(stderr, "phasor: error: %s\n", e.what());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "phasor: error: internal: %s\n", e.what());
  }
  return 1;
}
