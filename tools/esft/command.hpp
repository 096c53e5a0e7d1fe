// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The commands of the tool. Each `add_<name>` adds one subcommand; its work happens in the subcommand's callback.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

namespace esft::tool {

void add_score(CLI::App& app);
void add_select(CLI::App& app);
void add_train(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_logits(CLI::App& app);
void add_group(CLI::App& app);
void add_merge(CLI::App& app);
void add_verify(CLI::App& app);
void add_convert(CLI::App& app);
void add_compose(CLI::App& app);
void add_unmerge(CLI::App& app);
void add_diff(CLI::App& app);
void add_inspect(CLI::App& app);
void add_plan(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_doctor(CLI::App& app);
void add_list(CLI::App& app);
void add_demo(CLI::App& app);
void add_report(CLI::App& app);
void add_study(CLI::App& app);
void add_bench(CLI::App& app);
void add_audit(CLI::App& app);
void add_drift(CLI::App& app);
void add_stability(CLI::App& app);

}  // namespace esft::tool
