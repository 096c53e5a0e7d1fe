// SPDX-License-Identifier: Apache-2.0
/// @file
/// The command-line tool: parses, runs one command, and turns every outcome into one of the fixed exit codes of docs/exit_codes.md.

#include "command.hpp"
#include "console.hpp"
#include "number_checks.hpp"

#include <esft/core/config.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include <fcntl.h>
#include <unistd.h>

namespace {

int fail(int code, const std::string& what) {
  std::fprintf(stderr, "esft: %s\n", what.c_str());
  return code;
}

/// A standard stream that the caller closed would be the first file that the tool opens: what it prints would end in a checkpoint.
void open_standard_streams() {
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0; fd = ::open("/dev/null", O_RDWR)) {
    if (fd <= STDERR_FILENO) continue;
    ::close(fd);
    return;
  }
}

int run(int argc, char** argv) {
  using namespace esft::tool;
  CLI::App app("Fine-tune Mixture-of-Experts language models by training only the experts a task needs", "esft");
  app.set_version_flag("--version", ESFT_VERSION_STRING);
  app.set_config("--config", "", "read options from a TOML file; flags win over it");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", out().json, "print one JSON object on stdout");
  app.add_flag("--quiet", out().quiet, "print errors only");
  add_score(app);
  add_select(app);
  add_train(app);
  add_eval(app);
  add_generate(app);
  add_logits(app);
  add_group(app);
  add_merge(app);
  add_verify(app);
  add_unmerge(app);
  add_compose(app);
  add_diff(app);
  add_convert(app);
  add_inspect(app);
  add_plan(app);
  add_tokenize(app);
  add_doctor(app);
  add_list(app);
  add_study(app);
  add_bench(app);
  add_audit(app);
  add_drift(app);
  add_stability(app);
#ifdef ESFT_TOOL_HAS_DEMO
  add_demo(app);
#endif
#ifdef ESFT_TOOL_HAS_REPORT
  add_report(app);
#endif
  refuse_what_is_no_number(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    if (const auto unread = app.remaining(); app.get_subcommands().empty() && !unread.empty()) {
      return fail(static_cast<int>(esft::error_category::usage), "'" + unread.front() + "' is no subcommand: `esft --help` lists them");
    }
    return app.exit(problem) == 0 ? 0 : static_cast<int>(esft::error_category::usage);
  }
  return 0;
}

/// The exit code, unless what was printed did not arrive.
int expect_printed(int code) {
  const bool arrived = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  if (arrived || code != 0) return code;
  return fail(static_cast<int>(esft::error_category::storage), "cannot write to standard output: is the disk full?");
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is then an ordinary write error
  try {
    return expect_printed(run(argc, argv));
  } catch (const esft::tool::finished& outcome) {
    return expect_printed(outcome.exit_code);
  } catch (const esft::error& problem) {
    return fail(static_cast<int>(problem.category()), problem.what());
  } catch (const std::filesystem::filesystem_error& problem) {
    return fail(static_cast<int>(esft::error_category::storage), problem.what() + std::string("; check the path and its permissions"));
  } catch (const std::bad_alloc&) {
    return fail(static_cast<int>(esft::error_category::device),
                "out of memory: `esft plan` says what a run needs; use fewer rows, shorter rows or --recompute");
  } catch (const esft::contract_violation& bug) {
    std::fprintf(stderr, "esft: a fault of esft, please report it: %s\n", bug.what());
  } catch (const std::exception& bug) {
    std::fprintf(stderr, "esft: an unexpected fault, please report it: %s\n", bug.what());
  }
  return 1;
}
