// SPDX-License-Identifier: Apache-2.0
// A run that was stopped and resumed equals the uninterrupted one bit for bit, and every saved field is needed for that.
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/io/run_lock.hpp>
#include <esft/optim/schedule.hpp>
#include <esft/train/run_directory.hpp>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <set>

#include <gtest/gtest.h>

namespace resume_tests {

using reference = esft::reference_backend<float>;
using cpu = esft::eigen_backend<float>;

constexpr std::int64_t total = 8;

esft::trainer_options options() {
  esft::trainer_options result;
  result.learning_rate = 1e-2;
  result.schedule = [shape = esft::cosine_schedule{{2, total, 0.1}}](std::int64_t step) { return shape.factor(step); };
  result.balance.expert = 1e-2;
  return result;
}

/// A fresh process, as far as the library can tell: new backend, model and trainer.
template <class Backend>
struct session {
  Backend backend = make();
  esft::decoder<Backend> model = tiny::model(backend);
  esft::trainer<esft::decoder<Backend>> run;

  explicit session(const esft::trainable_set& set = tiny::some_experts())
      : run((esft::apply(backend, model.parameters, set), backend), model, options()) {}
  session(const session&) = delete;

  auto values() { return tiny::values(backend, model); }
  static Backend make() {
    if constexpr (std::is_same_v<Backend, cpu>) {
      return Backend(2);
    } else {
      return Backend();
    }
  }
};

const esft::run_fingerprint fingerprint{{"seed", "11"}, {"lr", "0.01"}};

esft::run_settings settings(const std::filesystem::path& directory, bool resume = true) {
  return {directory, total, 2, 0, resume, fingerprint};
}

/// Hooks that stop after `step`.
template <class Session>
esft::run_hooks until(Session& s, std::int64_t step) {
  return {{}, {}, [&s, step] { return s.run.steps >= step; }};
}

template <class Backend>
class resuming : public testing::Test {};
using backends = testing::Types<reference, cpu>;
TYPED_TEST_SUITE(resuming, backends);

TYPED_TEST(resuming, equals_the_uninterrupted_run_at_every_split) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory whole;
  session<TypeParam> uninterrupted;
  EXPECT_TRUE(esft::run_in_directory(uninterrupted.backend, uninterrupted.run, data, settings(whole.path(), false)).finished);
  for (std::int64_t split = 1; split < total; ++split) {
    const esft::test::scratch_directory directory;
    session<TypeParam> first;
    EXPECT_FALSE(esft::run_in_directory(first.backend, first.run, data, settings(directory.path()), until(first, split)).finished);
    EXPECT_EQ(first.run.steps, split);
    if (split % 3 == 0) {  // a run that was resumed may be stopped and resumed again
      session<TypeParam> middle;
      esft::run_in_directory(middle.backend, middle.run, data, settings(directory.path()), until(middle, split + 1));
    }
    session<TypeParam> second;
    EXPECT_TRUE(esft::run_in_directory(second.backend, second.run, data, settings(directory.path())).finished);
    EXPECT_EQ(second.values(), uninterrupted.values()) << "split " << split;
    EXPECT_EQ(tiny::on_host(second.backend, second.run.optimizer.second_moment.all()),
              tiny::on_host(uninterrupted.backend, uninterrupted.run.optimizer.second_moment.all()));
  }
}

/// The outcome of resuming at the middle after `damage` was done to the restored state.
std::map<esft::parameter_key, std::vector<float>> resumed_with(const std::function<void(session<reference>&)>& damage) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  session<reference> first;
  esft::run_in_directory(first.backend, first.run, data, settings(directory.path()), until(first, total / 2));
  session<reference> second;
  EXPECT_TRUE(esft::resume_from_checkpoint(directory.path(), second.backend, second.run, fingerprint).has_value());
  damage(second);
  esft::run_steps(second.run, data, total, 2, [](const esft::step_report&) { return true; });
  return second.values();
}

TEST(resuming_state, every_field_is_needed) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory whole;
  session<reference> uninterrupted;
  esft::run_in_directory(uninterrupted.backend, uninterrupted.run, data, settings(whole.path(), false));
  const auto expected = uninterrupted.values();
  EXPECT_EQ(resumed_with([](session<reference>&) {}), expected);  // the twin: nothing dropped
  EXPECT_NE(resumed_with([](session<reference>& s) { s.backend.fill(s.run.optimizer.first_moment.all(), 0.0F); }), expected);
  EXPECT_NE(resumed_with([](session<reference>& s) { s.backend.fill(s.run.optimizer.second_moment.all(), 0.0F); }), expected);
  EXPECT_NE(resumed_with([](session<reference>& s) { s.run.optimizer.steps = 0; }), expected);
  EXPECT_NE(resumed_with([](session<reference>& s) { s.run.steps -= 1; }), expected);
  EXPECT_NE(resumed_with([](session<reference>& s) {  // master weights of the untrained model
              session<reference> fresh;
              const auto before = tiny::on_host(fresh.backend, fresh.run.optimizer.master.all());
              s.backend.copy_in(std::span<const float>(before), s.run.optimizer.master.all());
            }),
            expected);
}

TEST(resuming_state, a_loop_of_your_own_saves_and_goes_on) {  // docs/how_to/resume-a-run.md quotes it
  const auto data = tiny::schedule();
  const esft::test::scratch_directory whole;
  session<reference> uninterrupted;
  esft::run_in_directory(uninterrupted.backend, uninterrupted.run, data, settings(whole.path(), false));
  const esft::test::scratch_directory folder;
  const auto train_until = [&](auto& backend, auto& run, std::int64_t last_step) {
    const esft::run_lock lock(folder.path());  // two processes would mix their checkpoints
    const std::optional<esft::resumed_run> resumed = esft::resume_from_checkpoint(folder.path(), backend, run, fingerprint);
    esft::run_steps(run, data, last_step, 2, [](const esft::step_report&) { return true; });
    esft::save_checkpoint(folder.path(), backend, run, fingerprint);
    return resumed ? resumed->step : 0;
  };
  session<reference> first;
  EXPECT_EQ(train_until(first.backend, first.run, 3), 0);
  session<reference> second;
  EXPECT_EQ(train_until(second.backend, second.run, total), 3);
  EXPECT_EQ(second.values(), uninterrupted.values());
}

TEST(resuming_state, the_count_of_skipped_steps_survives) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  const auto poison = [](session<reference>& s) {
    s.backend.fill(s.model.parameters.final_norm.value.view(), std::numeric_limits<float>::quiet_NaN());
  };
  esft::run_settings how = settings(directory.path());
  how.steps = 40;
  session<reference> first;
  poison(first);
  esft::run_in_directory(first.backend, first.run, data, how, until(first, 9));
  EXPECT_EQ(first.run.skipped, 9);
  session<reference> second;
  poison(second);
  EXPECT_THROW(esft::run_in_directory(second.backend, second.run, data, how), esft::numerics_error);
  EXPECT_EQ(second.run.steps, 10);  // the tenth in a row, although this process saw only one
}

TEST(resuming_state, what_is_saved_is_finite) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  session<reference> s;
  esft::run_in_directory(s.backend, s.run, data, settings(directory.path()), until(s, 2));
  s.backend.fill(s.run.optimizer.first_moment.all(), std::numeric_limits<float>::infinity());  // the next update goes too far
  esft::run_steps(s.run, data, 3, 2, [](const esft::step_report&) { return true; });
  EXPECT_EQ(s.run.skipped, 0);  // the step itself saw a finite loss
  EXPECT_THROW(esft::save_checkpoint(directory.path(), s.backend, s.run, fingerprint), esft::numerics_error);
  session<reference> resumed;
  const auto from = esft::resume_from_checkpoint(directory.path(), resumed.backend, resumed.run, fingerprint);
  ASSERT_TRUE(from.has_value());
  EXPECT_EQ(from->step, 2);
  EXPECT_TRUE(from->damaged.empty());
}

TEST(resuming_state, another_run_is_refused_naming_the_field) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  session<reference> first;
  esft::run_in_directory(first.backend, first.run, data, settings(directory.path()), until(first, 3));
  const auto refusal = [&](const esft::run_fingerprint& other) -> std::string {
    session<reference> second;
    try {
      esft::resume_from_checkpoint(directory.path(), second.backend, second.run, other);
    } catch (const esft::usage_error& problem) {
      return problem.what();
    }
    return {};
  };
  EXPECT_EQ(refusal(fingerprint), "");
  EXPECT_NE(refusal({{"seed", "12"}, {"lr", "0.01"}}).find("seed = 11"), std::string::npos);
  EXPECT_NE(refusal({{"seed", "11"}, {"lr", "0.02"}}).find("lr = 0.01"), std::string::npos);
  EXPECT_NE(refusal({{"seed", "11"}}).find("lr = 0.01"), std::string::npos);
  EXPECT_NE(refusal({{"seed", "11"}, {"lr", "0.01"}, {"mix", "1:1"}}).find("mix"), std::string::npos);
}

TEST(resuming_state, state_of_another_plan_is_refused_naming_the_tensor) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  session<reference> first;
  esft::run_in_directory(first.backend, first.run, data, settings(directory.path()), until(first, 3));
  esft::trainable_set fewer = tiny::some_experts();
  fewer.experts.erase(esft::layer_index{2});
  session<reference> second(fewer);
  EXPECT_THROW(esft::resume_from_checkpoint(directory.path(), second.backend, second.run, fingerprint), esft::error);
  esft::trainable_set more = tiny::some_experts();
  more.experts[esft::layer_index{2}].emplace_back(3);
  session<reference> third(more);
  try {
    esft::resume_from_checkpoint(directory.path(), third.backend, third.run, fingerprint);
    FAIL();
  } catch (const esft::error& problem) {
    EXPECT_NE(std::string(problem.what()).find("layer2.expert3"), std::string::npos) << problem.what();
  }
}

TEST(resuming_state, a_damaged_newest_checkpoint_is_passed_over) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory whole;
  session<reference> uninterrupted;
  esft::run_in_directory(uninterrupted.backend, uninterrupted.run, data, settings(whole.path(), false));
  const esft::test::scratch_directory directory;
  esft::run_settings how = settings(directory.path());
  how.save_every = 2;
  session<reference> first;
  esft::run_in_directory(first.backend, first.run, data, how, until(first, 5));
  {
    std::fstream file(directory / "step-5.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-3, std::ios::end);
    file.put('\x55');
  }
  session<reference> second;
  std::optional<esft::resumed_run> from;
  esft::run_hooks hooks;
  hooks.started = [&](const std::optional<esft::resumed_run>& resumed) { from = resumed; };
  esft::run_in_directory(second.backend, second.run, data, how, hooks);
  ASSERT_TRUE(from.has_value());
  EXPECT_EQ(from->step, 4);
  EXPECT_EQ(from->damaged.size(), 1U);
  EXPECT_EQ(second.values(), uninterrupted.values());

  std::set<std::int64_t> steps;  // every step is in the log exactly once, although step 5 was done twice
  std::size_t lines = 0;
  esft::read_jsonl(directory / "metrics.jsonl", [&](const esft::json_reader& line) {
    steps.insert(line.at("step").integer(1, total));
    ++lines;
  });
  EXPECT_EQ(steps.size(), static_cast<std::size_t>(total));
  EXPECT_EQ(lines, static_cast<std::size_t>(total));
}

TEST(resuming_state, a_run_is_not_overwritten_without_being_asked) {
  const auto data = tiny::schedule();
  const esft::test::scratch_directory directory;
  session<reference> first;
  esft::run_in_directory(first.backend, first.run, data, settings(directory.path(), false), until(first, 3));
  session<reference> second;
  EXPECT_THROW(esft::run_in_directory(second.backend, second.run, data, settings(directory.path(), false)), esft::usage_error);
  EXPECT_EQ(second.run.steps, 0);
}

}  // namespace resume_tests
